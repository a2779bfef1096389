"""A small bundle that needs only numpy: a linear classifier of 2x2 RGB images into four classes."""

from __future__ import annotations

from collections.abc import Callable
from ctypes.util import find_library
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle.writer import write_bundle
from edgekit_runtime.format.manifest import (
    Golden,
    InputSpec,
    Manifest,
    OutputSpec,
    Preprocessing,
    TensorBinding,
    Variant,
)

Npy = Callable[[Any], bytes]
Make = Callable[..., Path]

WEIGHTS = np.random.default_rng(7).normal(size=(2, 2, 3, 4)).astype(np.float32)
GOLDEN = np.random.default_rng(8).normal(size=(3, 1, 2, 2, 3)).astype(np.float32)


@pytest.fixture
def weights() -> np.ndarray:
    """The classifier: (2, 2, 3, 4)."""
    return WEIGHTS


@pytest.fixture
def manifest(linear: Callable[..., Any]) -> Manifest:
    """The classifier's manifest, still without its files."""
    preprocessing = Preprocessing(resize=(2, 2), scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.25,))
    return linear(
        WEIGHTS,
        GOLDEN,
        1e-5,
        "null-float32",
        model_name="quarters",
        inputs=(InputSpec("image", (1, 2, 2, 3), "float32", "NHWC", preprocessing),),
        outputs=(OutputSpec("scores", (1, 4), "float32", "labels.txt"),),
    )[0]


@pytest.fixture
def variant(manifest: Manifest) -> Variant:
    """The classifier's only artifact, in float32."""
    return manifest.variants[0]


@pytest.fixture
def files(linear: Callable[..., Any]) -> dict[str, bytes]:
    """The classifier's files."""
    return {"labels.txt": b"north\neast\nsouth\nwest\n", **linear(WEIGHTS, GOLDEN, name="null-float32")[1]}


@pytest.fixture
def make(manifest: Manifest, files: dict[str, bytes], tmp_path: Path) -> Make:
    """Write the classifier, with other variants, other parts of the manifest or other files."""

    def write(*variants: Variant, folder: bool = False, also: dict[str, bytes] | None = None, **parts: Any) -> Path:
        changed = replace(manifest, **parts, **({"variants": variants} if variants else {}))
        path = tmp_path / ("bundle" if folder else "bundle.edgekit")
        write_bundle(changed, {**files, **(also or {})}, path, as_directory=folder)
        return path

    return write


@pytest.fixture
def bundle_path(make: Make) -> Path:
    """The classifier as a file."""
    return make()


@pytest.fixture
def make_identity(npy: Npy, tmp_path: Path) -> Make:
    """Write a bundle whose model returns its four inputs, in the artifact's dtype and quantization."""

    def write(
        dtype: str = "int8", scale: float | None = 0.5, zero_point: int | None = 3, real: str = "float32"
    ) -> Path:
        files = {
            "x.npy": npy(np.zeros((1, 1, 4), real)),
            "y.npy": npy(np.zeros((1, 1, 4), real)),
            "eye.npy": npy(np.eye(4, dtype=dtype)),
        }
        binding = TensorBinding(0, "x", dtype, scale, zero_point)
        variant = Variant(
            "identity", "null", "cpu", "int8-static", ("eye.npy",), (binding,), (binding,), Golden(("y.npy",), (0.0,))
        )
        manifest = Manifest(
            "identity",
            "1",
            (InputSpec("x", (1, 4), real),),
            (OutputSpec("y", (1, 4), real),),
            (variant,),
            (),
            ("x.npy",),
        )
        path = tmp_path / f"identity-{dtype}.edgekit"
        write_bundle(manifest, files, path)
        return path

    return write


@pytest.fixture
def make_tflite(tmp_path: Path) -> Make:
    """Write a .tflite of one operator, built by hand with LiteRT's own schema; needs LiteRT.

    ``tensors`` are (name, shape, dtype, (scale, zero point) or None, data or None); the operator reads all but
    the last and writes the last, and the first ones are the model's inputs.
    """

    def write(operator: str, *tensors: tuple[Any, ...], inputs: int = 1) -> Path:
        import flatbuffers
        from ai_edge_litert import schema_py_generated as schema

        model = schema.ModelT()
        model.version = 3
        model.buffers = [schema.BufferT()]
        graph = schema.SubGraphT()
        graph.tensors = []
        for name, shape, dtype, quantization, data in tensors:
            tensor = schema.TensorT()
            tensor.name, tensor.shape = name, list(shape)
            tensor.type = getattr(schema.TensorType, dtype.upper())
            if quantization is not None:
                tensor.quantization = schema.QuantizationParametersT()
                tensor.quantization.scale, tensor.quantization.zeroPoint = [quantization[0]], [quantization[1]]
            tensor.buffer = 0
            if data is not None:
                model.buffers.append(schema.BufferT())
                model.buffers[-1].data = np.frombuffer(data.tobytes(), np.uint8)
                tensor.buffer = len(model.buffers) - 1
            graph.tensors.append(tensor)
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, operator)
        node = schema.OperatorT()
        node.inputs, node.outputs = list(range(len(tensors) - 1)), [len(tensors) - 1]
        if operator == "FULLY_CONNECTED":
            node.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
            node.builtinOptions = schema.FullyConnectedOptionsT()
        graph.inputs, graph.outputs, graph.operators = list(range(inputs)), [len(tensors) - 1], [node]
        model.operatorCodes, model.subgraphs = [code], [graph]
        builder = flatbuffers.Builder()
        builder.Finish(model.Pack(builder), b"TFL3")
        path = tmp_path / f"{operator.lower()}.tflite"
        path.write_bytes(builder.Output())
        return path

    return write


@pytest.fixture
def gpu_driver(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of SwiftShader's Vulkan driver, which LiteRT then finds, also in child processes."""
    driver = Path("/usr/lib/chromium/vk_swiftshader_icd.json")
    assert find_library("vulkan"), "the Vulkan loader is missing: apt-get install libvulkan1"
    monkeypatch.setenv("VK_DRIVER_FILES", str(driver))
    return driver


@pytest.fixture
def make_ir(tmp_path: Path) -> Callable[[np.ndarray], Path]:
    """Write an IR of x @ weights, for weights (in, out); needs OpenVINO."""

    def write(weights: np.ndarray) -> Path:
        import openvino
        from openvino import opset13 as op

        x = op.parameter([1, weights.shape[0]], dtype=np.float32, name="x")
        model = openvino.Model([op.matmul(x, op.constant(weights), False, False)], [x], "product")
        model.outputs[0].set_names({"y"})
        openvino.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
        return tmp_path / "model.xml"

    return write
