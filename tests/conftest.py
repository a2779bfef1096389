"""Who needs what: a test marked `needs_...` is skipped without it, but in CI a missing package fails it."""

from __future__ import annotations

import ctypes
import io
import os
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit_runtime.format.manifest import Golden, InputSpec, Manifest, OutputSpec, TensorBinding, Variant
from edgekit_runtime.host.signal_stack import Stack

ROOT = Path(__file__).parents[1]

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would commands

# marker -> import packages, all of which must be there
PACKAGES = {
    "needs_keras": ("tensorflow", "keras", "tf_keras", "ai_edge_quantizer"),
    "needs_torch": ("torch", "litert_torch", "ai_edge_quantizer"),
    "needs_litert": ("ai_edge_litert",),
    "needs_openvino": ("openvino", "nncf"),
    "needs_onnx": ("onnx",),
    "needs_rich": ("rich",),
    "needs_jsonschema": ("jsonschema",),
    "needs_image": ("PIL",),
    "needs_cryptography": ("cryptography",),
    "needs_jinja2": ("jinja2",),
    "needs_ray": ("ray",),
    "needs_tflite": ("tflite",),
    "needs_zstandard": ("zstandard",),
    "needs_tensorboard": ("tensorboard", "tensorboardX"),
    "needs_wandb": ("wandb",),
}
# marker -> files, or programs, all of which must be there
MODEL_SIGNING = os.environ.get("EDGEKIT_MODEL_SIGNING", str(ROOT / ".venv-model-signing" / "bin" / "model_signing"))
JUDGES = Path(os.environ.get("EDGEKIT_JUDGES", ROOT / ".venv-judges")) / "bin"
FILES = {
    "needs_gpu_driver": ("/usr/lib/chromium/vk_swiftshader_icd.json",),  # of Debian's chromium package
    "needs_model_signing": (MODEL_SIGNING,),
    "needs_judges": (str(JUDGES / "oelint-adv"),),
}
PROGRAMS = {
    "needs_arm": ("qemu-aarch64-static", "qemu-arm-static"),
    "needs_cc": ("cc",),
    "needs_updaters": (
        *("dbus-run-session", "dpkg", "make", "mender", "mender-artifact", "mksquashfs", "openssl", "rauc", "skopeo"),
        *("swupdate", "unshare", "unsquashfs"),
    ),
}


def _data_folder() -> Path:
    return Path(os.environ.get("EDGEKIT_DATA", ROOT.parent / "shared" / "data"))


def _require(item: pytest.Item, wanted: dict[str, tuple[str, ...]], find: Callable[[str], object]) -> None:
    for marker, names in wanted.items():
        missing = [name for name in names if item.get_closest_marker(marker) and find(name) is None]
        if missing:
            reason = f"{marker}: {', '.join(missing)} not installed"
            if os.environ.get("CI"):
                pytest.fail(f"{reason}, and CI skips nothing for a missing package", pytrace=False)
            pytest.skip(reason)


def _require_data() -> None:
    if not _data_folder().is_dir():
        pytest.skip(f"needs_data: no folder {_data_folder()}; set EDGEKIT_DATA to where the real models are")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail before any fixture is made."""
    _require(item, PACKAGES, find_spec)
    _require(item, PROGRAMS, shutil.which)
    _require(item, FILES, lambda path: Path(path).exists() or None)
    if item.get_closest_marker("needs_data"):
        _require_data()


@pytest.fixture(autouse=True)
def _a_machine_that_knows_nothing(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the runtime remembers of one test is not there in the next, nor left behind on the machine."""
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path_factory.mktemp("state")))


@pytest.fixture
def takes_signals() -> None:
    """Let the process of the tests handle signals on its ordinary stack.

    Where tests made several OpenVINO cores, their own stack for signals may be gone (``signal_stack.py``).
    """
    disable = 2
    assert not ctypes.CDLL(None).sigaltstack(ctypes.byref(Stack(None, disable, 0)), None)


@pytest.fixture(scope="session")
def judges() -> Path:
    """The folder of programs of the environment of those that judge recipes and microcontrollers' code."""
    return JUDGES


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of 64 KiB, or of as many as its parameter says."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={getattr(request, 'param', 64)}k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("making a small disk takes the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def model_signing() -> str:
    """The command of OpenSSF's reference implementation."""
    return MODEL_SIGNING


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real models and data; skips the test without it."""
    _require_data()
    return _data_folder()


@pytest.fixture(scope="session")
def demo() -> Path:
    """The folder of the embedded digits model and its data."""
    return ROOT / "edgekit" / "demo"


@pytest.fixture(scope="session")
def npy() -> Callable[[Any], bytes]:
    """An array as the bytes of an .npy file."""

    def convert(array: Any) -> bytes:
        file = io.BytesIO()
        np.save(file, np.asarray(array))
        return file.getvalue()

    return convert


@pytest.fixture(scope="session")
def linear(npy: Callable[[Any], bytes]) -> Callable[..., tuple[Manifest, dict[str, bytes]]]:
    """The manifest and the files of a bundle that needs nothing but numpy: its model multiplies by an array.

    ``linear(weights)``, for weights (*input without batch, out); its golden input x (samples, 1, *input) is zeros if
    none is given, and its only variant is called ``name``. Other parts of the manifest are what they are told to be.
    """

    def parts(
        weights: np.ndarray, x: np.ndarray | None = None, tolerance: float = 0.0, name: str = "v", **changed: Any
    ) -> tuple[Manifest, dict[str, bytes]]:
        ins, outs = weights.shape[:-1], weights.shape[-1]
        x = np.zeros((1, 1, *ins), np.float32) if x is None else x
        variant = Variant(
            name=name,
            engine="null",
            device="cpu",
            scheme="float32",
            files=(f"variants/{name}/weights.npy",),
            inputs=(TensorBinding(0, "x", "float32"),),
            outputs=(TensorBinding(0, "y", "float32"),),
            golden=Golden(("golden/y.npy",), (tolerance,)),
        )
        manifest = Manifest(
            model_name="product",
            model_version="1.0",
            inputs=(InputSpec("x", (1, *ins), "float32"),),
            outputs=(OutputSpec("y", (1, outs), "float32"),),
            variants=(variant,),
            files=(),
            golden_inputs=("golden/x.npy",),
        )
        y = x.reshape(len(x), 1, -1) @ weights.reshape(-1, outs)
        files = {"golden/x.npy": npy(x), "golden/y.npy": npy(y), variant.files[0]: npy(weights)}
        return replace(manifest, **changed), files

    return parts


@pytest.fixture
def make_board(tmp_path: Path) -> Callable[[str], Path]:
    """Write the files that describe a board of `tests/boards/`, and give the folder that is its root."""

    def make(name: str) -> Path:
        description = ROOT / "tests" / "boards" / f"{name}.toml"
        root = tmp_path / name
        for path, text in tomllib.loads(description.read_text(encoding="utf-8"))["files"].items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")
        return root

    return make


@pytest.fixture(scope="session")
def stages() -> dict[str, Any]:
    """Every stage that a module of the converters declares, by name."""
    import edgekit_converters
    from edgekit_converters.execution.stage import Stage

    root = Path(edgekit_converters.__path__[0])
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*.py")):
        if " = Stage(" in path.read_text(encoding="utf-8"):
            parts = path.relative_to(root.parent).with_suffix("").parts
            module = import_module(".".join(part for part in parts if part != "__init__"))
            declared = [stage for stage in vars(module).values() if isinstance(stage, Stage)]
            here = {stage.name: stage for stage in declared if stage.function.__module__ == module.__name__}
            assert not found.keys() & here.keys(), "two stages of one name"
            found |= here
    return found
