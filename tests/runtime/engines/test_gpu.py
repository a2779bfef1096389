"""LiteRT on a GPU, with SwiftShader, a Vulkan driver without hardware, from Debian's chromium package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgekit_runtime
from edgekit.bundle.writer import write_bundle
from edgekit_runtime.engines import delegates
from edgekit_runtime.errors import EngineUnavailable
from edgekit_runtime.format.manifest import Golden, InputSpec, Manifest, OutputSpec, TensorBinding, Variant

WEIGHTS = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)
X = np.random.default_rng(4).normal(size=(2, 1, 4)).astype(np.float32)


@pytest.fixture
def bundle(make_tflite: Callable[..., Path], npy: Callable[..., bytes], tmp_path: Path) -> Path:
    """The product with WEIGHTS, on the GPU, else on the CPU."""
    ends = [(end, (1, n), "float32", None, None) for end, n in (("x", 4), ("y", 3))]
    weights = ("w", (3, 4), "float32", None, np.ascontiguousarray(WEIGHTS.T))
    artifact = make_tflite("FULLY_CONNECTED", ends[0], weights, ends[1]).read_bytes()
    binding, golden = TensorBinding(0, "x", "float32"), Golden(("y.npy",), (1e-5,))
    cpu = Variant("cpu", "litert", "cpu", "float32", ("model.tflite",), (binding,), (binding,), golden)
    sides = (InputSpec("x", (1, 4), "float32"),), (OutputSpec("y", (1, 3), "float32"),)
    variants = (replace(cpu, name="gpu", device="gpu"), cpu)
    files = {"x.npy": npy(X), "y.npy": npy(X @ WEIGHTS), "model.tflite": artifact}
    write_bundle(Manifest("product", "1", *sides, variants, (), ("x.npy",)), files, tmp_path / "b.edgekit")
    return tmp_path / "b.edgekit"


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which no GPU is found."""
    monkeypatch.setattr(delegates, "SIGNS", {key: "/dev/none*" for key in delegates.SIGNS})


@pytest.mark.needs_litert
@pytest.mark.needs_gpu_driver
def test_the_gpu_runs_and_passes_its_golden_check(bundle: Path, gpu_driver: Path) -> None:
    with edgekit_runtime.load(bundle, require="litert:gpu") as model:
        placement = model.placement
        np.testing.assert_allclose(model(X[1]), X[1] @ WEIGHTS, rtol=1e-5)
        first = model(X[0])
        model(X[1])
        np.testing.assert_allclose(first, X[0] @ WEIGHTS, rtol=1e-5)
    assert (placement.variant, placement.runs_on, placement.precision) == ("gpu", "GPU", "float32")
    assert placement.probe.verdict == "ok"


@pytest.mark.needs_litert
@pytest.mark.needs_gpu_driver
def test_the_gpu_runs_in_an_isolated_child(bundle: Path, gpu_driver: Path) -> None:
    with edgekit_runtime.load(bundle, require="gpu", isolate=20) as model:
        np.testing.assert_allclose(model(X[1]), X[1] @ WEIGHTS, rtol=1e-5)


@pytest.mark.needs_litert
@pytest.mark.needs_gpu_driver
@pytest.mark.needs_data
def test_a_quantized_model_gives_the_same_on_gpu_and_cpu(
    shared_data: Path, gpu_driver: Path, tmp_path: Path, npy: Callable[..., bytes]
) -> None:
    from ai_edge_litert.interpreter import Interpreter

    path = shared_data / "coral" / "models" / "mobilenet_v1_0.25_128_quant.tflite"
    image = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), dtype=np.uint8)
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    want = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    binding, golden = TensorBinding(0, "x", "uint8"), Golden(("y.npy",), (2.0,))  # two steps: it rounds in other places
    cpu = Variant("cpu", "litert", "cpu", "int8-static", ("model.tflite",), (binding,), (binding,), golden)
    sides = (InputSpec("x", image.shape, "uint8"),), (OutputSpec("y", want.shape, "uint8"),)
    files = {"x.npy": npy(image[None]), "y.npy": npy(want[None]), "model.tflite": path.read_bytes()}
    variants = (replace(cpu, name="gpu", device="gpu"), cpu)
    write_bundle(Manifest("coral", "1", *sides, variants, (), ("x.npy",)), files, tmp_path / "q.edgekit")
    with edgekit_runtime.load(tmp_path / "q.edgekit") as model:
        assert model.placement.variant == "gpu"
        assert np.abs(model(image).astype(int) - want).max() <= 2


@pytest.mark.needs_litert
def test_without_a_gpu_the_cpu_runs_and_no_child_is_started(bundle: Path, without_gpu: None) -> None:
    with edgekit_runtime.load(bundle) as model:
        assert model.placement.variant == "cpu"
        assert model.placement.refused[0].reason.startswith("no GPU was found that ai-edge-litert could use")
    with pytest.raises(EngineUnavailable, match="no GPU was found"):
        edgekit_runtime.load(bundle, require="gpu")


@pytest.mark.needs_openvino
@pytest.mark.parametrize("device", ["gpu", "npu"])
def test_openvino_names_the_available_devices(
    device: str, variant: Variant, make_ir: Callable[..., Path], npy: Callable[..., bytes]
) -> None:
    from edgekit_runtime.engines import openvino

    with pytest.raises(EngineUnavailable, match=rf"OpenVINO finds no {device.upper()}\.7 here, only .*CPU"):
        openvino.open_model(make_ir(WEIGHTS), replace(variant, device=device, settings={"DEVICE_ID": "7"}), None)
