"""The compile cache returns only unchanged entries, stays within its limit, and is optional."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit_runtime.engines import compile_cache, litert, openvino
from edgekit_runtime.engines.litert.interpreter import LiteRTEngine
from edgekit_runtime.format.manifest import Golden, Variant

KEY = {"artifact": "a", "library": "1.0"}
WEIGHTS = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)
X = np.random.default_rng(4).normal(size=(1, 4)).astype(np.float32)


def entries() -> list[Path]:
    """The entries of the cache, the oldest first."""
    return sorted(Path(compile_cache.folder()).iterdir(), key=lambda path: path.stat().st_mtime)


def test_an_entry_is_found_only_under_its_key() -> None:
    compile_cache.add_content(KEY, b"compiled")
    found = compile_cache.find(KEY)
    assert found is not None
    assert Path(found).read_bytes() == b"compiled"
    assert compile_cache.find({**KEY, "library": "1.1"}) is None


@pytest.mark.parametrize("place", range(8))
def test_a_damaged_entry_is_removed(place: int) -> None:
    compile_cache.add_content(KEY, b"compiled")
    (entry,) = entries()
    content = bytearray(entry.read_bytes())
    content[place] ^= 1 << place
    entry.write_bytes(content)
    assert compile_cache.find(KEY) is None
    assert entries() == []


def test_the_least_recently_used_entry_is_removed_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compile_cache.LIMIT_NAME, "1")
    for number in range(3):
        compile_cache.add_content({"number": str(number)}, bytes([number]) * 400_000)
        os.utime(entries()[-1], (1000 + number, 1000 + number))
    kept = [compile_cache.find({"number": str(number)}) is not None for number in range(3)]
    assert kept == [False, True, True]
    compile_cache.add_content(KEY, bytes(2 << 20))
    assert compile_cache.find(KEY) is None


def test_without_a_folder_nothing_is_cached_and_one_warning_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path / "file"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            compile_cache.add_content(KEY, b"compiled")
            assert compile_cache.find(KEY) is None
    assert len(caught) == 1
    assert "compiled models are not cached on this machine" in str(caught[0].message)


def test_a_limit_of_0_turns_the_cache_off_without_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compile_cache.add_content(KEY, b"compiled")
    monkeypatch.setenv(compile_cache.LIMIT_NAME, "0")
    assert compile_cache.find(KEY) is None
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path / "file"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile_cache.add_content(KEY, b"compiled")
    monkeypatch.delenv(compile_cache.LIMIT_NAME)
    assert compile_cache.find(KEY) is None


def test_files_that_another_process_writes_or_removes_are_tolerated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compile_cache.LIMIT_NAME, "1")
    others = compile_cache.temporary_path()
    assert others is not None
    Path(others).write_bytes(bytes(2 << 20))
    os.utime(others)
    path = compile_cache.temporary_path()
    assert path is not None
    Path(path).write_bytes(b"compiled")
    os.symlink("nothing", os.path.join(compile_cache.folder(), "gone"))  # as one is that was just removed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compile_cache.add_file(KEY, path) == compile_cache.find(KEY) is not None
    assert Path(others).stat().st_size == 2 << 20


def a_variant(engine: str, path: Path) -> Variant:
    """A variant for the CPU, in float."""
    return Variant("v", engine, "cpu", "float32", (str(path),), (), (), Golden((), ()))


@pytest.mark.needs_openvino
class TestOpenVINO:
    """Compiled models."""

    @pytest.fixture
    def opened(self, make_ir: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
        """Open the product, compare it with numpy, and return the libraries that it was opened from."""
        monkeypatch.setattr(openvino, "MAX_IMPORT_TIME", float("inf"))
        path = make_ir(WEIGHTS)

        def open_it(artifact: str = "digest", threads: int = 1) -> dict[str, str]:
            engine = openvino.open_model(str(path), a_variant("openvino", path), threads, artifact)
            np.testing.assert_allclose(engine.run([X])[0], X @ WEIGHTS, rtol=1e-5)
            engine.close()
            return dict(engine.facts.libraries)

        return open_it

    def test_the_second_start_imports_the_compiled_model(self, opened: Callable[..., dict[str, str]]) -> None:
        assert opened() == {}
        assert opened() == {"compiled model": str(entries()[0])}
        assert opened(threads=2) == {}
        assert opened("another") == {}
        assert opened("") == {}

    def test_a_damaged_entry_is_compiled_again(self, opened: Callable[..., dict[str, str]]) -> None:
        opened()
        (entry,) = entries()
        content = bytearray(entry.read_bytes())
        content[len(content) // 2] ^= 1
        entry.write_bytes(content)
        assert opened() == {}
        assert list(opened()) == ["compiled model"]

    def test_an_entry_that_openvino_refuses_is_compiled_again(
        self, opened: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(compile_cache, "add_content", lambda key, _: KEPT(key, b"no compiled model"))
        opened()
        assert opened() == {}

    def test_without_a_cache_nothing_is_exported(
        self, opened: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept: list[bytes] = []
        monkeypatch.setattr(compile_cache, "add_content", lambda _, content: kept.append(content))
        monkeypatch.setenv(compile_cache.LIMIT_NAME, "0")
        opened()
        assert kept == []
        monkeypatch.delenv(compile_cache.LIMIT_NAME)
        opened()
        assert len(kept) == 1

    def test_a_model_that_imports_slowly_is_not_cached(
        self, opened: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(openvino, "MAX_IMPORT_TIME", 0.0)
        opened()
        assert [entry.stat().st_size for entry in entries()] == [0]
        assert opened() == {}


KEPT = compile_cache.add_content


@pytest.mark.needs_litert
class TestLiteRT:
    """Repacked weights."""

    @pytest.fixture
    def engine(self, make_tflite: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> LiteRTEngine:
        """The product, large enough for its clones to share weights."""
        monkeypatch.setattr(litert, "MIN_SHARED_BYTES", 0)
        ends = [(end, (1, n), "float32", None, None) for end, n in (("x", 4), ("y", 3))]
        weights = ("w", (3, 4), "float32", None, np.ascontiguousarray(WEIGHTS.T))
        path = make_tflite("FULLY_CONNECTED", ends[0], weights, ends[1])
        return litert.open_model(str(path), a_variant("litert", path), None, "digest")

    def test_clones_share_their_weights_and_compute_the_same(self, engine: LiteRTEngine) -> None:
        clones = [engine.clone(), engine.clone()]
        (entry,) = entries()
        for clone in clones:
            assert clone.facts.libraries == {"packed weights": str(entry)}
            np.testing.assert_array_equal(clone.run([X])[0], engine.run([X])[0])
        assert clones[0].clone().facts == clones[0].facts

    def test_without_a_cache_clones_have_their_own(self, engine: LiteRTEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(compile_cache.LIMIT_NAME, "0")
        clone = engine.clone()
        assert clone.facts.libraries == {}
        np.testing.assert_array_equal(clone.run([X])[0], engine.run([X])[0])

    def test_damaged_weights_are_packed_again(self, engine: LiteRTEngine) -> None:
        engine.clone().close()
        (entry,) = entries()
        content = bytearray(entry.read_bytes())
        content[-1] ^= 1
        entry.write_bytes(content)
        np.testing.assert_array_equal(engine.clone().run([X])[0], engine.run([X])[0])
        assert [path.name for path in entries()] == [entry.name]
