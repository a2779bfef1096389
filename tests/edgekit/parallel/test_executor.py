"""Executors: results in order, and no task starts after an exception."""

from __future__ import annotations

import threading
import time

import pytest

from edgekit.parallel.executor import Threads


@pytest.mark.parametrize("jobs", [1, 3])
def test_results_are_in_the_order_of_the_items(jobs):
    def slow_first(one: int, why: str) -> tuple[int, str]:
        time.sleep(0.05 / (one + 1))
        return one, why

    found = Threads(jobs).map(slow_first, range(8), lambda place: "odd" if place % 2 else "")
    assert found == [(place, "odd" if place % 2 else "") for place in range(8)]


def test_as_many_tasks_run_at_the_same_time_as_there_are_jobs():
    together, most, lock, met = 0, 0, threading.Lock(), threading.Barrier(3, timeout=30)

    def meet(_one: int, _why: str) -> None:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        met.wait()
        with lock:
            together -= 1

    Threads(3).map(meet, range(6), lambda _: "")
    assert most == 3


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_skip_reason_is_evaluated_when_a_thread_is_free(jobs):
    over = threading.Event()

    def third_ends_it(one: int, why: str) -> str:
        if one == 2:
            over.set()
        return why

    found = Threads(jobs).map(third_ends_it, range(20), lambda _: "over" if over.is_set() else "")
    assert found[:3] == [""] * 3
    assert found[3 + jobs :] == ["over"] * (17 - jobs)


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_exception_ends_the_call(jobs):
    def fail(_one: int, _why: str) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        Threads(jobs).map(fail, range(4), lambda _: "")
