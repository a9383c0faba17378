"""Python programs run in copies of one process that has loaded torch, MONAI and medvit: for tests in which a cold start is not the point.

``run`` and ``Popen`` are those of ``subprocess``, for command lines of this Python with ``-c``, ``-m`` or a script. The process that is
copied belongs to the pytest process that asked first, and ends with it. A copy has its own arguments, environment, folder, threads
and streams. A fork server of multiprocessing that it starts is a fork of it, and loads nothing anew. Its modules are those of the
tests' checkout, and its parent is not pytest: a test of what a program or a fork server loads, or of what happens to a program when
its parent ends, must start a process of its own.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import multiprocessing.util
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

_LONGEST = 2**18
"""Bytes of the longest request: arguments and environment."""

_PYTHON = sys.executable

_COPIES = sys.platform == "linux"
"""Elsewhere every program is started cold."""

_lock = threading.Lock()
_server: socket.socket | None = None


class _Copy(subprocess.Popen):
    """A ``subprocess.Popen`` whose process the server forks, if it is Python; the server also tells its number and how it ended."""

    _status = -1
    """File descriptor on which the server reports the process; -1 for a process that the server has not forked."""

    def _execute_child(
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *rest,
    ):  # fmt: skip
        line = [os.fspath(word) for word in args]
        if line[0] != _PYTHON or shell or preexec_fn or pass_fds:
            super()._execute_child(
                args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags, shell,
                p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *rest,
            )  # fmt: skip
            return
        environment = dict(os.environ if env is None else env)
        request = {"line": line, "cwd": os.fspath(cwd or Path.cwd()), "environment": environment}
        streams = [number if given == -1 else given for number, given in enumerate((p2cread, c2pwrite, errwrite))]
        self._status, status = os.pipe()
        try:
            socket.send_fds(_started(), [json.dumps(request).encode()], [*streams, status])
        finally:
            os.close(status)
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)
        self.pid = struct.unpack("i", os.read(self._status, 4))[0]
        self._child_created = True

    def _try_wait(self, wait_flags):
        """Return the number and the status of the process once it has ended, as ``os.waitpid`` does."""
        if self._status == -1:
            return super()._try_wait(wait_flags)
        if wait_flags & os.WNOHANG and not select.select([self._status], [], [], 0)[0]:
            return 0, 0
        content = os.read(self._status, 4)
        os.close(self._status)
        return self.pid, struct.unpack("i", content)[0] if content else signal.SIGKILL

    def _internal_poll(self, _deadstate=None):
        if self._status == -1:
            return super()._internal_poll(_deadstate)
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                pid, status = (0, 0) if self.returncode is not None else self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode


Popen = _Copy if _COPIES else subprocess.Popen


def run(
    line: list[str], *, timeout: float | None = None, check: bool = False, capture_output: bool = False, **options: Any
):
    """Run a program to its end, as ``subprocess.run`` does."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(line, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


processes = types.SimpleNamespace(**{**vars(subprocess), "Popen": Popen, "run": run})
"""Put in the place of a module's ``subprocess``, this makes the children that the module starts copies."""


def _started() -> socket.socket:
    """Start the server at first use; return the socket that takes requests."""
    global _server
    with _lock:
        if _server is None:
            _server, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            path = os.pathsep.join(folder for folder in sys.path if folder)
            subprocess.Popen(
                [sys.executable, "-m", "tests.warm", str(theirs.fileno())], cwd=ROOT, env=os.environ | {"PYTHONPATH": path},
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            theirs.close()
    return _server


_LOADED = (
    "torch", "ignite.engine", "monai.bundle", "monai.inferers", "monai.transforms", "medvit.pipeline", "medvit.segmentation.save",
    "medvit.inference.loaded_bundle", "medvit.training.trainer", "medvit.cli.main", "medvit_label.server", "uvicorn", "tests.bands",
)  # fmt: skip
"""Modules that the server loads for the programs it runs; none of them may start a thread."""


def _load() -> None:
    for name in _LOADED:
        with contextlib.suppress(ImportError):  # extras
            importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Fork a copy for each request; return the request in the copy, and None in the server once pytest has ended."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    running: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([requests, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _report_ended(running)
        if requests not in ready:
            continue
        content, files, _, _ = socket.recv_fds(requests, _LONGEST, 4)
        if not content:
            for left in running:
                os.kill(left, signal.SIGKILL)
            return None
        *streams, status = files
        number = os.fork()
        if number == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for own, stream in enumerate(streams):
                os.dup2(stream, own)
            for left in (*streams, status, woken, wake, *running.values()):
                os.close(left)
            requests.close()
            request: dict[str, Any] = json.loads(content)
            return request
        os.write(status, struct.pack("i", number))
        running[number] = status
        for stream in streams:
            os.close(stream)


def _report_ended(running: dict[int, int]) -> None:
    """Report the exit code of each copy that has ended."""
    while running:
        number, status = os.waitpid(-1, os.WNOHANG)
        if not number:
            return
        with contextlib.suppress(OSError):  # nobody waits for it
            os.write(running[number], struct.pack("i", status))
        os.close(running.pop(number))


def _become(cwd: str, environment: dict[str, str], line: list[str]) -> None:
    """Run a program as its own process would; its exceptions and exit code are those of this process."""
    import numpy as np

    np.random.seed()
    os.environ.clear()
    os.environ.update(environment)
    _set_threads()
    multiprocessing.util.spawnv_passfds = _spawn  # type: ignore[attr-defined]
    os.chdir(cwd)
    kind, words = (line[1], line[2:]) if line[1] in ("-c", "-m") else ("", line[1:])
    first = cwd if kind else str(Path(words[0]).parent)
    path = [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[:] = dict.fromkeys([first, *path, *sys.path])
    sys.argv[:] = ["-c" if kind == "-c" else words[0], *words[1:]]
    if kind == "-m":
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.modules["__main__"] = program = types.ModuleType("__main__")
        exec(compile(words[0], "<string>", "exec"), program.__dict__)
    else:
        runpy.run_path(words[0], run_name="__main__")


def _set_threads() -> None:
    """Take the number of threads from the environment, as torch does when it is loaded."""
    import torch

    threads = int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)


_spawn_cold = multiprocessing.util.spawnv_passfds  # type: ignore[attr-defined]


def _spawn(path: bytes, args: list[str], passed: list[int]) -> int:
    """Start what multiprocessing starts by ``spawnv_passfds``: its fork server as a fork of this process, anything else cold."""
    if not args[-1].startswith("from multiprocessing.forkserver import main;"):
        return int(_spawn_cold(path, args, passed))
    number = os.fork()
    if number == 0:
        code = 1
        try:
            for handled in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(handled, signal.SIG_DFL)
            for left in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
                if left > 2 and left not in passed:
                    with contextlib.suppress(OSError):
                        os.close(left)
            _set_threads()
            exec(args[-1], {})
        except SystemExit:
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    return number


if __name__ == "__main__":
    _load()
    wanted = _serve(socket.socket(fileno=int(sys.argv[1])))
    if wanted is not None:
        _become(**wanted)
