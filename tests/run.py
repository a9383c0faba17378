"""Run the suite in several processes that take test files from one queue: ``python tests/run.py [PYTEST OPTIONS]``.

Each process is one pytest (``tests/file_queue.py`` tells it what to take), so what a session's fixtures set up is set up once a
process. The files that took longest last time come first, so that no process ends long after the others. Each process takes its
share of the cores as threads, and so do the programs that its tests start, since tests compare voxels with those of such programs;
the threads wait without spinning. The first process is shown as it runs, the others when all have ended. A fault in any of them is the outcome of the whole, and so is a
process that ends before its work is done, whatever its exit status.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / ".pytest_cache" / "medvit" / "seconds.json"
"""How long each test took when it ran last, of those that took longer than a second."""


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes() -> int:
    """Return one more than there are cores, since many tests wait; at least 2, at most 4, and each with 4 GiB of memory."""
    pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return max(2, min(4, cores() + 1, pages * os.sysconf("SC_PAGE_SIZE") // 2**32 if pages else 4))


def main(options: list[str]) -> int:
    """Run all processes; 0 when tests ran and all were green, else the first exit status that is not."""
    with ExitStack() as stack:
        queue = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        known = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
        (queue / "known.json").write_text(json.dumps(known))
        shown_later = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(processes() - 1)]
        started = [_start(queue, number, output, options) for number, output in enumerate([None, *shown_later])]
        stack.callback(signal.signal, signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        signal.signal(signal.SIGTERM, lambda *_: _stop(started))
        for process in started:
            stack.callback(_end, process)
        ends = [process.wait() for process in started]
        for output in shown_later:
            output.seek(0)
            sys.stdout.buffer.write(output.read())
        sys.stdout.buffer.flush()
        codes = [_judged(queue, number, code) for number, code in enumerate(ends)]
        _remember(queue, known)
    return next((code for code in codes if code), 0)


def _start(queue: Path, number: int, output: IO[bytes] | None, options: list[str]) -> subprocess.Popen[bytes]:
    plugins = ["-p", "tests.file_queue", "-p", "no:cacheprovider", "-o", "console_output_style=classic"]
    told = {"MEDVIT_TEST_QUEUE": str(queue), "MEDVIT_TEST_PROCESS": str(number), "OMP_WAIT_POLICY": "PASSIVE"}
    told |= {"OMP_NUM_THREADS": str(max(1, cores() // processes()))}
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *plugins, *options],
        env=os.environ | told, cwd=ROOT, stdout=output, stderr=output and subprocess.STDOUT,
    )  # fmt: skip


def _stop(started: list[subprocess.Popen[bytes]]) -> None:
    """Do what Ctrl+C in a terminal does, which reaches these processes by itself."""
    for process in started:
        process.send_signal(signal.SIGINT)
    raise KeyboardInterrupt


def _end(process: subprocess.Popen[bytes]) -> None:
    """Give a process that was interrupted time to stop the servers of its tests."""
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()


def _judged(queue: Path, number: int, code: int) -> int:
    """The exit status of a process; 1 where it says 0 and has not come to its end, with a word on what it ran."""
    if code > 0 or (code == 0 and (queue / f"{number}.ended").is_file()):
        return code
    taken = sorted(queue.glob("*.taken"), key=lambda path: path.stat().st_mtime_ns)
    files = [name for process, name in (path.read_text().split(" ", 1) for path in taken) if int(process) == number]
    print(
        f"Process {number} died (exit status {code}); not all of these has run: {', '.join(files[-2:]) or 'nothing yet'}."
    )
    return code or 1


def _remember(queue: Path, known: dict[str, float]) -> None:
    """Write down how long tests took, those of earlier runs too as long as their file is there."""
    for path in queue.glob("*.ended"):
        known |= json.loads(path.read_text())
    kept = {name: known[name] for name in sorted(known) if known[name] > 1 and (ROOT / name.split("::")[0]).is_file()}
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
