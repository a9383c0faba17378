"""What a worker does in the tests of the pool, instead of a model: to crash, hang, or run out of memory as told."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from medvit_batch.cases import CaseJob, Outcome, State
from medvit_batch.execution import prefetch as ahead
from medvit_batch.execution.case_input import Opened, open_case, read_case
from medvit_batch.execution.dispatcher import Dispatcher
from medvit_batch.execution.messages import Announced, CaseEnded, InputHashed
from medvit_batch.execution.pipe_transport import PipeTransport
from medvit_batch.execution.worker import CaseChannel

from medvit.errors import MedvitError, SourceError
from medvit.progress import Progress

_PATIENCE = 60.0


def behave(job: CaseJob, link: CaseChannel) -> Outcome:
    """Do what the job's name says."""
    link.started()
    link.show("infer", 0, 1)
    if job.name == "hang":
        time.sleep(600)
    if job.name == "stuck":  # deaf to everything, as native code can be
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
        while True:
            pass
    if job.name == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if job.name == "exit":
        os._exit(7)
    if job.name == "broken":
        return Outcome(state=State.FAILED, reason="broken", fatal=True)
    if job.name == "ask":
        return Outcome(state=State.CHECKED, reason=str(link.ask("digest")))
    return Outcome(state=State.CHECKED, reason=str(os.getpid()))


def note_and_wait(job: CaseJob, link: CaseChannel) -> Outcome:
    """Write down which process is at work and which made it, then work for ever."""
    (job.staging / f"aside-{job.case}").write_text(f"{os.getpid()} {os.getppid()}")
    (job.staging / f"aside-{job.case}").replace(job.staging / f"pid-{job.case}")
    while True:
        time.sleep(0.01)


def describe(job: CaseJob, link: CaseChannel) -> Outcome:
    """Say what this process had loaded when it got the case, and what it was given; or kill the process that forked it."""
    if job.name == "waits":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    loaded = {name: name in sys.modules for name in ("torch", "monai", "medvit.segmentation.save")}
    import torch

    known = {
        "loaded": loaded,
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.is_initialized(),  # type: ignore[no-untyped-call]
        "environment": dict(os.environ),
        "pid": os.getpid(),
        "parent": os.getppid(),
    }
    return Outcome(state=State.CHECKED, reason=json.dumps(known), fatal=job.name == "last")


def job(number: int, name: str, staging: Path = Path()) -> CaseJob:
    """A job for ``behave``."""
    from medvit_batch.cases import CaseLocation, RunOptions

    return CaseJob(
        case=number, name=name, bundle="", work=RunOptions(), staging=staging, group=None, key=CaseLocation()
    )


def sham(job: CaseJob, link: CaseChannel) -> Outcome | None:
    """Run a case: read its images like those of any case, and sleep in place of a model; names of its folders ask for faults."""
    _spoil_reading()
    opened = link.reading.opened() if link.reading is not None else None
    early = opened is not None
    try:
        opened = opened or opening(job)
        if not link.ask(opened.digest):
            return Outcome(state=State.SKIPPED)
        link.started()
        if link.reading is None or link.reading.scan() is None:
            early = False
            read_case(job, opened, Progress())
    except MedvitError as error:
        return Outcome(
            state=State.SET_ASIDE, stage="open", code=type(error).__name__, reason=str(error), remedy="None."
        )
    except MemoryError:
        return Outcome(
            state=State.FAILED,
            stage="open",
            code="MemoryError",
            reason="Found too little memory.",
            remedy="None.",
            fatal=True,
        )
    link.go()
    link.show("infer", 0, 1)
    time.sleep(0.7)
    name = _folder(job)
    if "greedy" in name and not link.alone:  # needs all the memory there is: with nothing beside it, it is enough
        return Outcome(
            state=State.FAILED,
            stage="infer",
            code="MemoryError",
            reason="Found too little memory.",
            remedy="None.",
            fatal=True,
        )
    link.settle()

    def write(beside: bool) -> Outcome:
        if "writes badly" in name:
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(0.2)
        job.staging.mkdir()
        record = json.dumps({"files": {}, "ahead": early, "behind": beside, "alone": link.alone})
        (job.staging / "run.json").write_text(record)
        seal = hashlib.sha256(record.encode()).hexdigest()
        return Outcome(state=State.CHECKED, rating="good", run_sha256=seal)

    return link.finish(1, write)


def opening(job: CaseJob) -> Opened:
    """Opens a case, and does what the name of its folder says."""
    name = _folder(job)
    if "crashes" in name:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGSEGV)
    if "hangs" in name:  # in native code that lets no other thread run
        ctypes.PyDLL(None).sleep(600)
    if "eats memory" in name:
        raise MemoryError
    if "damaged" in name:
        raise SourceError("Found nothing to read. Check the export.")
    return open_case(job)


def _folder(job: CaseJob) -> str:
    assert job.group is not None
    return Path(job.group.planes[0].file.open.args[0]).parent.name  # type: ignore[attr-defined]


def _spoil_reading() -> None:
    """What is read ahead meets the same faults."""
    ahead.open_case = opening


def next_end(dispatcher: Dispatcher) -> CaseEnded:
    """Wait for the end of the case at work."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        for event in dispatcher.wait(0.2):
            if isinstance(event, InputHashed):
                dispatcher.answer(event.case, True)
            elif not isinstance(event, Announced):
                return event
    raise AssertionError


def described(dispatcher: Dispatcher) -> dict[str, Any]:
    """Run ``describe`` once; its worker ends with it."""
    dispatcher.give(job(1, "last"))
    event = next_end(dispatcher)
    assert event.outcome is not None, event
    found: dict[str, Any] = json.loads(event.outcome.reason)
    return found


def describers(threads: int = 1) -> Dispatcher:
    """Make a dispatcher of one worker that describes itself."""
    return Dispatcher(PipeTransport(1, threads=threads, run=describe), time_limit=600)
