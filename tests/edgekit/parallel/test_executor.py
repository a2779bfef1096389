"""Whoever tries, and however many at once: results in order, and nothing begun after the end."""

from __future__ import annotations

import threading
import time

import pytest

from edgekit.parallel.executor import Threads


@pytest.mark.parametrize("jobs", [1, 3])
def test_results_come_in_the_order_of_what_was_given(jobs):
    def slow_first(one: int, why: str) -> tuple[int, str]:
        time.sleep(0.05 / (one + 1))
        return one, why

    found = Threads(jobs).map(slow_first, range(8), lambda place: "odd" if place % 2 else "")
    assert found == [(place, "odd" if place % 2 else "") for place in range(8)]


def test_so_many_run_at_once_and_no_more():
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
def test_the_reason_is_asked_when_a_thread_is_free(jobs):
    over = threading.Event()

    def third_ends_it(one: int, why: str) -> str:
        if one == 2:
            over.set()
        return why

    found = Threads(jobs).map(third_ends_it, range(20), lambda _: "over" if over.is_set() else "")
    assert found[:3] == [""] * 3
    assert found[3 + jobs :] == ["over"] * (17 - jobs)


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_goes_wrong_ends_it(jobs):
    def fail(_one: int, _why: str) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        Threads(jobs).map(fail, range(4), lambda _: "")
