"""The line of inferences: bounded, one at a time, cancellable while it waits and while it runs."""

from __future__ import annotations

import gc
import logging
import threading
import weakref

import pytest
from medvit_label.errors import BusyError
from medvit_label.inference.queue import JobQueue

from medvit.progress import Cancelled, Progress


class Work:
    """Work that begins when it is its turn and ends when it is let go, looking for a cancel meanwhile."""

    def __init__(self) -> None:
        self.begun, self.free = threading.Event(), threading.Event()

    def __call__(self, progress: Progress) -> str:
        self.begun.set()
        while not self.free.wait(0.01):
            progress.report("infer", 1, 2)
        return "made"


def test_one_runs_the_others_wait_and_one_too_many_is_refused() -> None:
    queue, works = JobQueue(2), [Work(), Work()]
    jobs = [queue.submit(work, "bands", f"image {n}") for n, work in enumerate(works)]
    assert works[0].begun.wait(5)
    assert [job.state for job in jobs] == ["running", "waiting"] and not works[1].begun.is_set()
    with pytest.raises(BusyError, match="Found 2 waiting inferences, which is the limit; .* Ask again in a minute"):
        queue.submit(Work(), "bands", "image 2")
    works[0].free.set()
    assert jobs[0].future.result(5) == "made" and works[1].begun.wait(5)
    third = queue.submit(works[0], "bands", "image 2")
    works[1].free.set()
    assert third.future.result(5) == "made"
    assert [row["state"] for row in queue.listing()] == ["done"] * 3
    queue.close()


def test_cancelling_stops_what_runs_and_what_waits_never_begins() -> None:
    queue, works = JobQueue(4), [Work(), Work(), Work()]
    jobs = [queue.submit(work, "bands", "image") for work in works]
    assert works[0].begun.wait(5)
    queue.cancel(jobs[1].id)
    queue.cancel(jobs[0].id)
    for job in jobs[:2]:
        with pytest.raises(Cancelled):
            job.future.result(5)
    assert not works[1].begun.is_set()
    works[2].free.set()
    assert jobs[2].future.result(5) == "made"
    assert [row["state"] for row in queue.listing()] == ["cancelled", "cancelled", "done"]
    queue.close()


def test_a_failure_is_listed_by_its_kind_alone_and_does_not_hold_up_the_line() -> None:
    def fails(_: Progress) -> None:
        raise OSError("/studies/Secret_Person/scan.nii cannot be read")

    queue = JobQueue(4)
    job, after, work = queue.submit(fails, "bands", "image"), Work(), Work()
    after.free.set()
    assert queue.submit(after, "bands", "image").future.result(5) == "made"
    assert isinstance(job.future.exception(5), OSError)
    assert queue.find(job.id).summary()["reason"] == "OSError"
    running = queue.submit(work, "bands", "image")
    assert work.begun.wait(5)
    queue.close()  # a server that ends does not wait for the end of its inferences
    assert running.state == "cancelled"


def test_what_a_job_made_is_not_kept_for_the_list() -> None:
    class Made:
        """A result, as large as a CT."""

    queue, made = JobQueue(4), []

    def makes(progress: Progress) -> Made:
        progress.report("infer", 1, 1)
        result = Made()
        made.append(weakref.ref(result))
        return result

    job = queue.submit(makes, "bands", "image")
    assert isinstance(job.future.result(5), Made)
    queue.close()
    identity = job.id
    del job
    gc.collect()
    assert made[0]() is None
    assert queue.find(identity).summary()["state"] == "done" and queue.find(identity).stage == "infer"


def test_the_log_of_the_server_has_what_a_run_announces_without_the_image(caplog) -> None:
    with caplog.at_level(logging.INFO, "medvit_label"):
        job = JobQueue(1).submit(lambda progress: progress.announce("Preparing the network"), "bands", "image 0")
        job.future.result(5)
    assert caplog.messages == [f"inference {job.id[:8]} by bands: Preparing the network"]
