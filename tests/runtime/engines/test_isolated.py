"""Isolated inference: the application survives any failure of the child, and the next variant runs."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgekit_runtime
from edgekit_runtime.engines import isolated as isolate
from edgekit_runtime.errors import DelegateCrashed, EngineError, EngineUnavailable, InputMismatch
from edgekit_runtime.format.manifest import Variant
from edgekit_runtime.placement.load_options import Event

Make = Callable[..., Path]
X = np.random.default_rng(1).normal(size=(1, 2, 2, 3)).astype(np.float32)


@pytest.fixture
def expected(weights: np.ndarray) -> np.ndarray:
    """The classifier's output for X: (1, 4)."""
    return X.reshape(1, 12) @ weights.reshape(12, 4)


def engine_of(model: edgekit_runtime.Model) -> isolate.IsolatedEngine:
    """The engine whose child the model runs in."""
    return model._current.runnable._placed.session._pool._first


def child_of(model: edgekit_runtime.Model) -> int:
    """The process id of the child that the model runs in."""
    return engine_of(model)._child.pid


def has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_an_isolated_model_gives_the_same_outputs(bundle_path: Path, expected: np.ndarray) -> None:
    with edgekit_runtime.load(bundle_path, isolate=True) as model, edgekit_runtime.load(bundle_path) as plain:
        first = model(X)
        np.testing.assert_array_equal(first, plain(X))
        model(X * 2)
        np.testing.assert_allclose(first, expected, rtol=1e-5)  # the second run has not touched it
        image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
        np.testing.assert_array_equal(model(image, raw=True), plain(image, raw=True))
        pid = child_of(model)
        assert pid != os.getpid()
        assert replace(model.placement, checked=()) == replace(plain.placement, checked=())
        assert model.events == ()
    assert has_ended(pid)


def test_a_wrong_input_does_not_lose_the_variant(bundle_path: Path, expected: np.ndarray) -> None:
    with edgekit_runtime.load(bundle_path, isolate=True) as model:
        with pytest.raises(InputMismatch):
            model(X[0])
        np.testing.assert_allclose(model(X), expected, rtol=1e-5)
        assert model.events == ()


def test_the_next_variant_replaces_a_killed_child(make: Make, variant: Variant, expected: np.ndarray) -> None:
    events: list[Event] = []
    path = make(variant, replace(variant, name="second"), replace(variant, name="third"))
    with edgekit_runtime.load(path, isolate=True, on_event=events.append) as model:
        for name in ("null-float32", "second"):
            assert model.placement.variant == name
            os.kill(child_of(model), signal.SIGKILL)
            np.testing.assert_allclose(model(X), expected, rtol=1e-5)
        assert model.placement.variant == "third"
        assert [refusal.variant for refusal in model.placement.refused] == ["null-float32", "second"]
        assert "was lost while it ran: crashed" in model.placement.refused[0].reason
        assert list(model.events) == events
        assert [(event.lost, event.now) for event in events] == [("null-float32", "second"), ("second", "third")]


def test_the_only_variant_is_opened_again(bundle_path: Path, expected: np.ndarray) -> None:
    with edgekit_runtime.load(bundle_path, isolate=True) as model:
        for _ in range(3):
            os.kill(child_of(model), signal.SIGKILL)
            np.testing.assert_allclose(model(X), expected, rtol=1e-5)
        assert [(event.lost, event.now) for event in model.events] == [("null-float32", "null-float32")] * 3


@pytest.mark.parametrize(
    ("printed", "report"), [(b"INFO: all is well\n", ""), (b"ERROR: hot\nINFO: a\n\n", "ERROR: hot")]
)
def test_log_lines_are_not_reported_as_the_last_output(bundle_path: Path, printed: bytes, report: str) -> None:
    with edgekit_runtime.load(bundle_path, isolate=True) as model:
        engine_of(model)._stderr.write(printed)
        os.kill(child_of(model), signal.SIGKILL)
        model(X)
        assert model.events[0].reason.endswith(f"SIGKILL, its last output: {report}" if report else "SIGKILL")


def test_a_hung_child_is_replaced_after_the_timeout(make: Make, variant: Variant, expected: np.ndarray) -> None:
    with edgekit_runtime.load(make(variant, replace(variant, name="second")), isolate=1.5) as model:
        pid = child_of(model)
        os.kill(pid, signal.SIGSTOP)
        np.testing.assert_allclose(model(X), expected, rtol=1e-5)
        (event,) = model.events
        assert (event.lost, event.now) == ("null-float32", "second")
        assert "hung: no answer within 1.5 s" in event.reason
        assert has_ended(pid)


class Left(Exception):
    """Raised by a signal handler."""


@pytest.mark.usefixtures("takes_signals")
def test_the_answer_of_an_interrupted_call_is_discarded(bundle_path: Path, expected: np.ndarray) -> None:
    def leave(*_: object) -> None:
        raise Left

    before = signal.signal(signal.SIGALRM, leave)
    try:
        with edgekit_runtime.load(bundle_path, isolate=True) as model:
            pid = child_of(model)
            os.kill(pid, signal.SIGSTOP)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(Left):
                model(X * 2)
            os.kill(pid, signal.SIGCONT)
            select.select([engine_of(model)._child.stdout], [], [], 20)  # the answer is there
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(0.3, os.kill, (pid, signal.SIGCONT)).start()
            np.testing.assert_allclose(model(X), expected, rtol=1e-5)
            assert model.events == ()
    finally:
        signal.signal(signal.SIGALRM, before)


def children() -> set[int]:
    """Return the running processes that any thread of this one has started."""
    found = set()
    for report in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread, or the process, has just gone
            for pid in report.read_text().split():
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.add(int(pid))
    return found


KILLS = 30


@pytest.mark.skipif(not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="needs Linux's /proc")
def test_a_kill_at_any_moment_loses_or_mixes_no_result(bundle_path: Path, weights: np.ndarray) -> None:
    random = np.random.default_rng(2)
    done = threading.Event()
    others = children()
    answered: list[bool] = []
    with edgekit_runtime.load(bundle_path, isolate=True) as model:

        def ask(seed: int) -> None:
            questions = np.random.default_rng(seed)
            while not done.is_set():
                x = questions.normal(size=(1, 2, 2, 3)).astype(np.float32)
                answer = None
                while answer is None:
                    with suppress(DelegateCrashed):  # killed while it was opened again, too: the caller is told
                        answer = model(x)
                answered.append(np.allclose(answer, x.reshape(1, 12) @ weights.reshape(12, 4), rtol=1e-4, atol=1e-5))

        with ThreadPoolExecutor(3) as threads:
            asking = [threads.submit(ask, seed) for seed in range(3)]
            killed = 0
            while killed < KILLS and not any(each.done() for each in asking):
                time.sleep(random.choice([0.0, 0.002, 0.02, 0.1, 0.3]))  # while it starts, opens, or runs
                for pid in children() - others:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed += 1
            done.set()
            for each in asking:
                each.result(timeout=60)
        np.testing.assert_allclose(model(X), X.reshape(1, 12) @ weights.reshape(12, 4), rtol=1e-5)
        assert len(model.events) >= 10
    assert len(answered) > KILLS
    assert all(answered)
    assert children() <= others


def test_many_threads_report_one_lost_child_once(make: Make, variant: Variant, expected: np.ndarray) -> None:
    with edgekit_runtime.load(make(variant, replace(variant, name="second")), isolate=True) as model:

        def work(_: int) -> int:
            return sum(np.allclose(model(X), expected, rtol=1e-5) for _ in range(200))

        with ThreadPoolExecutor(4) as threads:
            right = threads.map(work, range(4))
            os.kill(child_of(model), signal.SIGKILL)
        assert (list(right), [event.lost for event in model.events]) == ([200] * 4, ["null-float32"])


def test_repeated_replacement_is_not_reported_as_a_closed_model(bundle_path: Path) -> None:
    with edgekit_runtime.load(bundle_path, isolate=True) as model:
        failover = model._current.runnable
        real = failover._placed

        class Replaced:
            def run(self, *_: object) -> None:
                failover._placed = Replaced()
                raise EngineError("the model is closed")

        failover._placed = Replaced()
        with pytest.raises(DelegateCrashed, match="lost 3 times in one call"):
            model(X)
        failover._placed = real


def test_when_nothing_can_be_opened_the_next_call_tries_again(
    make: Make, variant: Variant, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with edgekit_runtime.load(make(variant, replace(variant, name="second")), isolate=True) as model:
        with monkeypatch.context() as patched:
            patched.setattr("sys.executable", "")
            os.kill(child_of(model), signal.SIGKILL)
            with pytest.raises(DelegateCrashed, match="crashed: "):
                model(X)
        np.testing.assert_allclose(model(X), expected, rtol=1e-5)
        assert model.events[0].now is None
        assert model.events[1].now == model.placement.variant


def test_an_error_of_the_child_is_raised_in_the_parent(make: Make, variant: Variant) -> None:
    path = make(replace(variant, files=("odd.npy",)), also={"odd.npy": b"nonsense" * 4})
    with pytest.raises(EngineUnavailable, match=r"null-float32: the null engine cannot read odd\.npy"):
        edgekit_runtime.load(path, isolate=True)


def test_a_closed_model_stays_closed(bundle_path: Path) -> None:
    model = edgekit_runtime.load(bundle_path, isolate=True)
    pid = child_of(model)
    model.close()
    model.close()
    assert has_ended(pid)
    with pytest.raises(EngineError, match="the model is closed"):
        model(X)


def test_the_child_ends_when_its_parent_has_ended(bundle_path: Path) -> None:
    with edgekit_runtime.load(bundle_path, isolate=True) as model:
        child = engine_of(model)._child
        child.stdin.close()  # which is what a dead parent looks like
        assert child.wait(timeout=20) == 0


def test_the_captured_stderr_is_bounded(bundle_path: Path) -> None:
    with edgekit_runtime.load(bundle_path, isolate=True) as model:
        stderr = engine_of(model)._stderr
        stderr.write(b"x" * (isolate.MAX_STDERR_BYTES + 1))
        stderr.flush()
        for _ in range(isolate.CHECK_STDERR_EVERY + 1):
            model(X)
        assert os.fstat(stderr.fileno()).st_size == 0


@pytest.mark.parametrize("isolated", [0.0, -1, float("nan"), float("inf"), 1e8])
def test_a_timeout_is_positive(bundle_path: Path, isolated: float) -> None:
    with pytest.raises(ValueError, match="positive seconds"):
        edgekit_runtime.load(bundle_path, isolate=isolated)
