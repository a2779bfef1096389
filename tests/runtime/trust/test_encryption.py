"""LiteRT and OpenVINO open encrypted artifacts from memory, also in a child process, and store nothing of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit_runtime
from edgekit.bundle.writer import write_bundle
from edgekit_runtime.engines import compile_cache
from edgekit_runtime.format.manifest import Golden, InputSpec, Manifest, OutputSpec, TensorBinding, Variant

pytestmark = pytest.mark.needs_cryptography
KEY = bytes(range(32))
WEIGHTS = np.random.default_rng(5).normal(size=(64, 32)).astype(np.float32)  # (in, out)
X = np.random.default_rng(6).normal(size=(1, 64)).astype(np.float32)
Make = Callable[..., Path]


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders for temporary files and caches: everything that a runtime writes."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("EDGEKIT_STATE", str(folder / "state"))
    return folder


def encrypted(path: Path, npy: Callable[[Any], bytes], engine: str, *artifacts: Path) -> Path:
    """A bundle with one encrypted variant, x @ WEIGHTS."""
    from edgekit.bundle.encryption import encrypt

    files = {f"v/{artifact.name}": artifact for artifact in artifacts}
    bindings = (TensorBinding(0, "x", "float32"),), (TensorBinding(0, "y", "float32"),)
    variant = Variant("v", engine, "cpu", "float32", tuple(files), *bindings, Golden(("g/y.npy",), (1e-3,)))
    ends = (InputSpec("x", (1, 64), "float32"),), (OutputSpec("y", (1, 32), "float32"),)
    manifest = Manifest("product", "1", *ends, (variant,), (), ("g/x.npy",))
    golden = {"g/x.npy": npy(X[None]), "g/y.npy": npy((X @ WEIGHTS)[None])}
    write_bundle(manifest, {**files, **golden}, path / "clear.edgekit")
    encrypt(path / "clear.edgekit", KEY, path / "secret.edgekit")
    return path / "secret.edgekit"


def runs_and_leaves_nothing(bundle: Path, scratch: Path, isolate: bool) -> None:
    pieces = [WEIGHTS.tobytes()[:256], WEIGHTS.T.tobytes()[:256]]
    with edgekit_runtime.load(bundle, decryption_key=KEY, isolate=isolate, check="always") as model:
        assert np.allclose(model(X), X @ WEIGHTS, atol=1e-3)
        written = [path for path in scratch.rglob("*") if path.is_file() and not path.is_symlink()]
        assert not [path for path in written if any(piece in path.read_bytes() for piece in pieces)]
    assert [path.name for path in scratch.iterdir()] == ["state"]
    assert not Path(compile_cache.folder()).exists()


@pytest.mark.needs_litert
@pytest.mark.parametrize("isolate", [False, True])
def test_litert(make_tflite: Make, npy: Callable[[Any], bytes], tmp_path: Path, scratch: Path, isolate: bool) -> None:
    weights = np.ascontiguousarray(WEIGHTS.T)  # (out, in), as TFLite has them
    tensors = ("x", (1, 64), "float32", None, None), ("w", (32, 64), "float32", None, weights)
    model = make_tflite("FULLY_CONNECTED", *tensors, ("y", (1, 32), "float32", None, None))
    runs_and_leaves_nothing(encrypted(tmp_path, npy, "litert", model), scratch, isolate)


@pytest.mark.needs_openvino
@pytest.mark.parametrize("isolate", [False, True])
def test_openvino(
    make_ir: Make,
    npy: Callable[[Any], bytes],
    tmp_path: Path,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    isolate: bool,
) -> None:
    from edgekit_runtime.engines import openvino

    monkeypatch.setattr(openvino, "MAX_IMPORT_TIME", float("inf"))  # in clear, the compiled model would be kept
    model = make_ir(WEIGHTS)
    runs_and_leaves_nothing(encrypted(tmp_path, npy, "openvino", model, model.with_suffix(".bin")), scratch, isolate)
    if not isolate:
        edgekit_runtime.load(tmp_path / "clear.edgekit").close()
        assert Path(compile_cache.folder()).exists()
