"""The contract of all engines in the table, and tests of each engine."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from edgekit_runtime.engines import ENGINES, TensorInfo, library, open_engine
from edgekit_runtime.engines.wheels import Wheel
from edgekit_runtime.errors import DelegateUnavailable, EngineError, EngineUnavailable
from edgekit_runtime.format.manifest import Variant

MARKS = {"litert": pytest.mark.needs_litert, "openvino": pytest.mark.needs_openvino}
HERE = [pytest.param(name, marks=MARKS.get(name, ())) for name in ENGINES]
WEIGHTS = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)


class Loose:
    """Files outside any bundle."""

    def local_path(self, path: str) -> str:
        return path

    def digest(self, path: str) -> str:
        return ""


@pytest.fixture
def artifact(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Path]:
    """The product with WEIGHTS as an artifact of an engine."""

    def make(name: str) -> Path:
        if name == "litert":
            weights = ("w", (3, 4), "float32", None, np.ascontiguousarray(WEIGHTS.T))
            ends = [(end, (1, n), "float32", None, None) for end, n in (("x", 4), ("y", 3))]
            return request.getfixturevalue("make_tflite")("FULLY_CONNECTED", ends[0], weights, ends[1])
        if name == "openvino":
            return request.getfixturevalue("make_ir")(WEIGHTS)
        np.save(tmp_path / "weights.npy", WEIGHTS)
        return tmp_path / "weights.npy"

    return make


@pytest.fixture
def opening(variant: Variant, artifact: Callable[[str], Path]) -> Callable[..., Variant]:
    """A variant of an engine whose artifact is the product."""

    def make(name: str, **changes: object) -> Variant:
        path = artifact(name)
        return replace(variant, engine=name, **{"files": (str(path),), **changes})

    return make


@pytest.mark.parametrize("name", ENGINES)
def test_the_module_imports_without_its_library_and_has_its_constant_and_functions(name: str) -> None:
    module = import_module(ENGINES[name].module)
    assert all(Wheel(*fields).extra for fields in module.WHEELS.values())
    assert list(inspect.signature(module.library).parameters) == []
    assert list(inspect.signature(module.open_model).parameters) == ["path", "variant", "threads", "artifact"]
    code = f"import sys; before = set(sys.modules); import {ENGINES[name].module}; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    libraries = {package for engine in ENGINES.values() for package in engine.packages}
    assert not {loaded.partition(".")[0] for loaded in done.stdout.split()} & libraries


@pytest.mark.parametrize("name", ENGINES)
def test_foreign_errors_are_translated_in_one_place(name: str) -> None:
    path, foreign = Path(import_module(ENGINES[name].module).__file__), f"{name.upper()}_ERRORS"
    modules = sorted(path.parent.glob("*.py")) if path.name == "__init__.py" else [path]
    source = "\n".join(module.read_text(encoding="utf-8") for module in modules)
    caught = {
        ast.unparse(node.type or node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ExceptHandler)
    }
    assert source.count("class TranslateErrors") == (0 if name == "null" else 1)
    others = {"EngineUnavailable", "UNSUPPORTED"}  # UNSUPPORTED: of a LiteRT without an optional feature
    assert caught <= ({"(OSError, ValueError, EOFError)"} if name == "null" else {foreign, *others})
    if name != "null":  # a call enters the context manager only after an error
        assert f"except {foreign}:\n            with self._translate_errors:\n                raise\n" in source


@pytest.mark.parametrize("name", HERE)
def test_the_library_has_a_version(name: str) -> None:
    found = library(name)
    assert found.name
    assert all(part[0].isdigit() for part in (found.version, found.level))


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("threads", [None, 1, 2])
def test_it_opens_runs_and_closes(name: str, threads: int | None, opening: Callable[..., Variant]) -> None:
    engine = open_engine(opening(name), Loose(), threads)
    (entry,), (end,) = engine.inputs, engine.outputs
    assert (entry.index, entry.shape, entry.dtype, entry.scale) == (0, (1, 4), "float32", None)
    assert (end.index, end.shape, end.dtype) == (0, (1, 3), "float32")
    assert (engine.facts.device, engine.facts.precision) == ("CPU", "float32")
    assert name == "null" or engine.facts.threads == threads or threads is None
    x = np.random.default_rng(1).normal(size=(2, 1, 4)).astype(np.float32)
    x.flags.writeable = False  # golden inputs are mapped read-only
    first, second = (engine.run([one])[0] for one in x)
    np.testing.assert_allclose(first, x[0] @ WEIGHTS, rtol=1e-5, atol=1e-6)  # the second run has not touched it
    np.testing.assert_allclose(second, x[1] @ WEIGHTS, rtol=1e-5, atol=1e-6)
    strided = np.asfortranarray(np.repeat(x[0], 2, axis=0))[::2]
    np.testing.assert_allclose(engine.run([strided])[0], first, rtol=1e-6)
    engine.close()
    engine.close()


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x00" * 4096])
def test_it_refuses_a_damaged_artifact(
    name: str, content: bytes, opening: Callable[..., Variant], tmp_path: Path
) -> None:
    variant = opening(name)
    Path(variant.files[0]).write_bytes(content)
    with pytest.raises(EngineUnavailable, match=Path(variant.files[0]).name):
        open_engine(variant, Loose())


@pytest.mark.parametrize("name", HERE)
def test_a_missing_device_and_a_delegate_are_refused(name: str, opening: Callable[..., Variant]) -> None:
    with pytest.raises(EngineUnavailable):
        open_engine(opening(name, device="npu"), Loose())
    with pytest.raises((DelegateUnavailable, EngineUnavailable)):
        open_engine(opening(name, delegate="edgetpu"), Loose())


def test_an_unknown_engine_is_refused_with_the_known_ones(variant: Variant) -> None:
    with pytest.raises(EngineUnavailable, match=r"'future'.*null, litert, openvino.*pip install -U"):
        open_engine(replace(variant, engine="future"), Loose())


@pytest.mark.parametrize("name", ["litert", "openvino"])
def test_a_missing_library_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("ai_edge_litert", "tflite_runtime", "openvino"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EngineUnavailable, match=rf"pip install 'edgekit-runtime\[{name}\]'"):
        library(name)


def test_a_library_built_for_numpy_1_is_explained(
    opening: Callable[..., Variant], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What tflite-runtime 2.14 does when numpy 2 is installed; the two cannot be installed beside LiteRT here.
    message = "returned a result with an exception set"
    package = tmp_path / "tflite_runtime"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '2.14.0'\n")
    (package / "interpreter.py").write_text(f"def Interpreter(**options):\n    raise SystemError({message!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    for name in ("tflite_runtime", "tflite_runtime.interpreter"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(EngineUnavailable, match=r"weights\.npy: the library was built for numpy 1.*numpy<2"):
        open_engine(replace(opening("null"), engine="litert"), Loose())


@pytest.mark.needs_litert
def test_litert_has_scales_of_whole_tensors_only(make_tflite: Callable[..., Path], variant: Variant) -> None:
    path = make_tflite("QUANTIZE", ("x", (1, 4), "float32", None, None), ("q", (1, 4), "uint8", (0.25, 9), None))
    engine = open_engine(replace(variant, engine="litert", files=(str(path),)), Loose())
    assert engine.outputs == (TensorInfo(0, "q", (1, 4), "uint8", 0.25, 9),)
    assert engine.inputs[0].scale is None


@pytest.mark.needs_litert
@pytest.mark.needs_data
def test_litert_names_the_operator_it_cannot_run(variant: Variant, shared_data: Path) -> None:
    path = shared_data / "coral" / "models" / "model_invoking_error.tflite"
    with pytest.raises(EngineError, match="fake-op"):
        open_engine(replace(variant, engine="litert", files=(str(path),)), Loose())


@pytest.mark.needs_openvino
@pytest.mark.parametrize("settings", [{}, {"INFERENCE_PRECISION_HINT": "f32"}])
def test_openvino_computes_in_float32_by_default(opening: Callable[..., Variant], settings: dict[str, str]) -> None:
    engine = open_engine(opening("openvino", settings=settings), Loose(), 1)
    x = np.full((1, 4), 1 + 2**-12, np.float32)  # bfloat16 and float16 would round it to 1
    np.testing.assert_allclose(engine.run([x])[0], x @ WEIGHTS, rtol=1e-6)


@pytest.mark.needs_openvino
@pytest.mark.parametrize("threads", [1, None])
def test_openvinos_clones_share_one_compiled_model_unless_threads_are_limited(
    opening: Callable[..., Variant], threads: int | None
) -> None:
    engine = open_engine(opening("openvino"), Loose(), threads)
    clone = engine.clone()
    assert clone is not None
    assert (clone._compiled is engine._compiled) is (threads is None)


@pytest.mark.needs_openvino
def test_openvino_names_a_setting_it_does_not_know(opening: Callable[..., Variant]) -> None:
    with pytest.raises(EngineUnavailable, match="banana"):
        open_engine(opening("openvino", settings={"INFERENCE_PRECISION_HINT": "banana"}), Loose())


@pytest.mark.needs_openvino
def test_signals_reach_python_after_openvinos_models_were_closed_in_the_order_they_were_opened(
    artifact: Callable[[str], Path],
) -> None:
    code = (
        "import os, signal, sys, time\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "from edgekit_runtime.engines.openvino import open_model\n"
        "from edgekit_runtime.format.manifest import Variant\n"
        "variant = Variant('v', 'openvino', 'cpu', 'float32', (sys.argv[1],), (), (), None)\n"
        "engines = [open_model(sys.argv[1], variant, 1) for _ in range(3)]\n"
        "while engines: engines.pop(0).close()\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(20)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    command = [sys.executable, "-c", code, str(artifact("openvino"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
