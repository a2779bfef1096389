"""``threads="auto"`` measures once and caches the result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import edgekit_runtime
from edgekit_runtime import open_bundle
from edgekit_runtime.bundle.reader import Bundle
from edgekit_runtime.engines import ENGINES
from edgekit_runtime.host import state_cache
from edgekit_runtime.placement import thread_tuning
from edgekit_runtime.placement.load_options import DEFAULTS


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty state cache."""
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(thread_tuning, "MEASURED_S", 0.001)
    return tmp_path / "state"


@pytest.fixture
def bundle(bundle_path: Path) -> Iterator[Bundle]:
    """The classifier's bundle."""
    with open_bundle(bundle_path) as opened:
        yield opened


@pytest.mark.parametrize(("cores", "expected"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])])
def test_thread_counts_are_powers_of_two_and_all_cores(cores: int, expected: list[int]) -> None:
    assert thread_tuning.thread_counts(cores) == expected


@pytest.mark.parametrize(
    ("times_s", "best"),
    [
        ((1.0, 0.5, 0.3), 4),
        ((1.0, 0.95, 0.93), 1),  # not worth it
        ((1.0, 1.2, 2.0), 1),
        ((1.0, 0.6, 0.58), 2),
        ((1.0, 0.95, 0.5), 4),
    ],
)
def test_more_threads_must_gain_a_tenth_and_the_result_is_cached(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, times_s: tuple[float, ...], best: int
) -> None:
    measured = iter(times_s)
    monkeypatch.setattr(thread_tuning, "cores", lambda: 4)
    monkeypatch.setattr(thread_tuning, "_call_s", lambda session, bundle: next(measured))
    assert thread_tuning.best_threads(bundle, DEFAULTS) == best
    assert list(measured) == []
    assert thread_tuning.best_threads(bundle, DEFAULTS) == best  # without measuring: there is nothing left


def test_another_version_of_a_library_is_measured_again(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "own_matmul").mkdir()
    (tmp_path / "own_matmul" / "__init__.py").touch()
    (tmp_path / "own_matmul-1.0.dist-info").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(ENGINES, "null", ENGINES["null"]._replace(packages=("own_matmul",)))
    monkeypatch.setattr(thread_tuning, "cores", lambda: 2)
    measured: list[int] = []
    place = thread_tuning.place
    monkeypatch.setattr(thread_tuning, "place", lambda *args: measured.append(args[1].threads) or place(*args))
    for _ in range(2):
        thread_tuning.best_threads(bundle, DEFAULTS)
    assert measured == [1, 2]
    (tmp_path / "own_matmul-1.0.dist-info").rename(tmp_path / "own_matmul-1.1.dist-info")
    thread_tuning.best_threads(bundle, DEFAULTS)
    assert measured == [1, 2, 1, 2]


def test_an_invalid_cache_entry_is_ignored(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_tuning, "cores", lambda: 2)
    for nonsense in ({"threads": 64}, {"threads": "two"}, {"threads": 0}, {}):
        monkeypatch.setattr(state_cache, "get", lambda topic, key, nonsense=nonsense: nonsense)
        assert thread_tuning.best_threads(bundle, DEFAULTS) in (1, 2)


def test_load_accepts_auto(bundle_path: Path, state: Path) -> None:
    for _ in range(2):
        with edgekit_runtime.load(bundle_path, threads="auto") as model:
            assert model(np.zeros((1, 2, 2, 3), np.float32)).shape == (1, 4)
    assert len(list((state / "threads").iterdir())) == 1


@pytest.mark.parametrize("threads", ["fast", "2"])
def test_other_words_than_auto_are_refused(bundle_path: Path, threads: str) -> None:
    with pytest.raises(ValueError, match="threads"):
        edgekit_runtime.load(bundle_path, threads=threads)
