"""What a worker does in the tests of the pool, instead of a model: to crash, hang, or run out of memory as told."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import time
from pathlib import Path

from medvit_batch.cases import CaseJob, Outcome, State
from medvit_batch.execution import prefetch as ahead
from medvit_batch.execution.case_input import Opened, open_case, read_case
from medvit_batch.execution.worker import CaseChannel

from medvit.errors import MedvitError, SourceError
from medvit.progress import Progress


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
        return Outcome(State.FAILED, reason="broken", fatal=True)
    if job.name == "ask":
        return Outcome(State.CHECKED, reason=str(link.ask("digest")))
    return Outcome(State.CHECKED, reason=str(os.getpid()))


def note_and_wait(job: CaseJob, link: CaseChannel) -> Outcome:
    """Write down who is at work, then work for ever."""
    (job.staging / f"pid-{job.case}").write_text(str(os.getpid()))
    while True:
        time.sleep(0.01)


def die(job: CaseJob, link: CaseChannel) -> Outcome:
    """Never reached: ``serve`` ends before it is ready."""
    raise AssertionError


def job(number: int, name: str, staging: Path = Path()) -> CaseJob:
    """A job for ``behave``."""
    from medvit_batch.cases import CaseLocation, RunOptions

    return CaseJob(number, name, "", RunOptions(), staging, None, CaseLocation())


def sham(job: CaseJob, link: CaseChannel) -> Outcome | None:
    """A case whose images are read as those of any case, and whose model is a nap; faults lie in the names of its folders."""
    _spoil_reading()
    opened = link.reading.opened() if link.reading is not None else None
    early = opened is not None
    try:
        opened = opened or opening(job)
        if not link.ask(opened.digest):
            return Outcome(State.SKIPPED)
        link.started()
        if link.reading is None or link.reading.scan() is None:
            early = False
            read_case(job, opened, Progress())
    except MedvitError as error:
        return Outcome(State.SET_ASIDE, "open", type(error).__name__, str(error), "None.")
    except MemoryError:
        return Outcome(State.FAILED, "open", "MemoryError", "Found too little memory.", "None.", fatal=True)
    link.go()
    link.show("infer", 0, 1)
    time.sleep(0.7)
    name = _folder(job)
    if "greedy" in name and not link.alone:  # needs all the memory there is: with nothing beside it, it is enough
        return Outcome(State.FAILED, "infer", "MemoryError", "Found too little memory.", "None.", fatal=True)
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
        return Outcome(State.CHECKED, rating="good", run_sha256=seal)

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
