"""Write a bundle around a quantized .tflite or IR, with golden outputs, for the benchmarks of the runtime."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

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


def interpreter(path: Path) -> Any:
    """Return LiteRT's own interpreter, allocated, with one thread."""
    from ai_edge_litert.interpreter import Interpreter

    opened = Interpreter(str(path), num_threads=1)
    opened.allocate_tensors()
    return opened


def write_bundle_of(
    model: Path, bundle: Path, reference: Any, steps: Preprocessing | None = None, *, as_directory: bool = False
) -> None:
    """Write a bundle of one image model of one input and one output, both quantized.

    Args:
        model: a ``.tflite``, or an ``.xml`` with its ``.bin`` beside it.
        bundle: where to.
        reference: an interpreter of the model's ``.tflite``, which gives the golden outputs and the quantization.
        steps: preprocessing to declare.
        as_directory: write a folder.
    """
    details = reference.get_input_details()[0], reference.get_output_details()[0]
    (scale, zero), (out_scale, out_zero) = (detail["quantization"] for detail in details)
    dtypes = [np.dtype(detail["dtype"]) for detail in details]
    limits = np.iinfo(dtypes[0])
    shape = tuple(map(int, details[0]["shape"]))
    quantized = np.random.default_rng(0).integers(limits.min, limits.max + 1, shape).astype(dtypes[0])
    reference.set_tensor(details[0]["index"], quantized)
    reference.invoke()
    y = (reference.get_tensor(details[1]["index"]).astype(np.float32) - out_zero) * np.float32(out_scale)
    x = (quantized.astype(np.float32) - zero) * np.float32(scale)
    artifacts = {f"variants/v/{path.name}": path for path in (model, model.with_suffix(".bin")) if path.exists()}
    bindings = [
        TensorBinding(0, detail["name"], dtype.name, float(detail["quantization"][0]), int(detail["quantization"][1]))
        for detail, dtype in zip(details, dtypes, strict=True)
    ]
    variant = Variant(
        name="v",
        engine="openvino" if model.suffix == ".xml" else "litert",
        device="cpu",
        scheme="int8-static",
        files=tuple(artifacts),
        inputs=(bindings[0],),
        outputs=(bindings[1],),
        golden=Golden(("golden/y.npy",), (8 * out_scale,)),
    )
    manifest = Manifest(
        model_name=model.stem,
        model_version="1",
        inputs=(InputSpec("image", shape, "float32", "NHWC", steps),),
        outputs=(OutputSpec("scores", y.shape, "float32"),),
        variants=(variant,),
        files=(),
        golden_inputs=("golden/x.npy",),
    )
    files = {**artifacts, "golden/x.npy": _npy(x[None]), "golden/y.npy": _npy(y[None])}
    write_bundle(manifest, files, bundle, as_directory=as_directory)


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
