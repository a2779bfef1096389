"""Rules between the parts of a manifest: check that they agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from edgekit_runtime.format.manifest import MANIFEST_NAME, SIGNATURE_NAME

if TYPE_CHECKING:
    from edgekit_runtime.format.manifest import (
        InputSpec,
        JoinedBinding,
        Manifest,
        OutputSpec,
        Postprocessing,
        TensorBinding,
        Variant,
    )

RESERVED = (MANIFEST_NAME, SIGNATURE_NAME)
MAX_TOTAL_BYTES = (1 << 32) - (1 << 24)  # a ZIP without the 64-bit extension, with room for its headers
MAX_ELEMENTS = 1 << 31  # of one tensor

# Range of the quantized values of each dtype. Only these dtypes may have a scale.
QUANTIZED_RANGES = {
    "int8": (-(1 << 7), (1 << 7) - 1),
    "uint8": (0, (1 << 8) - 1),
    "int16": (-(1 << 15), (1 << 15) - 1),
}

Problem = tuple[str, str]  # (key, what is wrong with it)


def problems(manifest: Manifest) -> Iterator[Problem]:
    """Yield every contradiction in the manifest as (key, problem)."""
    yield from _files(manifest)
    yield from _unique("inputs", (spec.name for spec in manifest.inputs))
    yield from _unique("outputs", (spec.name for spec in manifest.outputs))
    yield from _unique("variants", (variant.name for variant in manifest.variants))
    yield from _unique("devices", (str(device["name"]) for device in manifest.devices))
    for i, spec in enumerate(manifest.inputs):
        yield from _input(spec, f"inputs[{i}]")
    for i, output in enumerate(manifest.outputs):
        yield from _elements(output.shape, f"outputs[{i}].shape")
    if manifest.postprocessing is not None:
        yield from postprocessing_problems(manifest.outputs, manifest.postprocessing)
    for i, variant in enumerate(manifest.variants):
        yield from _variant(manifest, variant, f"variants[{i}]")
    names = {variant.name for variant in manifest.variants}
    for i, device in enumerate(manifest.devices):
        for name in device.get("variants", ()):
            if name not in names:
                yield f"devices[{i}].variants", f"there is no variant {name!r}"


def _unique(where: str, names: Iterable[str]) -> Iterator[Problem]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield where, f"{name!r} is listed twice"
        seen.add(name)


def _files(manifest: Manifest) -> Iterator[Problem]:
    """Check that paths differ in more than case, none is both file and folder, and all used files are listed."""
    paths = [record.path for record in manifest.files]
    folded = {path.lower() for path in paths}
    yield from _unique("files", (path.lower() for path in paths))
    for path in paths:
        parents = path.lower().split("/")[:-1]
        if any("/".join(parents[: i + 1]) in folded for i in range(len(parents))):
            yield "files", f"{path!r} is inside another file"
        if path.lower() in RESERVED or path.lower().split("/")[0] in RESERVED:
            yield "files", f"{path!r} is a reserved name"
    if sum(record.size_bytes for record in manifest.files) > MAX_TOTAL_BYTES:
        yield "files", f"have more than {MAX_TOTAL_BYTES} bytes in total"
    artifacts = {path for variant in manifest.variants for path in variant.files}
    for record in manifest.files:
        if record.encryption and record.path not in artifacts:
            yield "files", f"{record.path!r} is encrypted and belongs to no variant"
    listed = set(paths)
    for where, path in _references(manifest):
        if path not in listed:
            yield where, f"{path!r} is not listed in files"


def _references(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield (key, path) for every reference to a file."""
    for path in manifest.golden_inputs:
        yield "golden_inputs", path
    for i, output in enumerate(manifest.outputs):
        if output.labels is not None:
            yield f"outputs[{i}].labels", output.labels
    for i, variant in enumerate(manifest.variants):
        for path in variant.files:
            yield f"variants[{i}].files", path
        for path in variant.golden.outputs:
            yield f"variants[{i}].golden.outputs", path


def _elements(shape: tuple[int, ...], where: str) -> Iterator[Problem]:
    count = 1
    for dim in shape:
        count *= dim
    if count > MAX_ELEMENTS:
        yield where, f"{list(shape)} has more than {MAX_ELEMENTS} elements"


def _input(spec: InputSpec, where: str) -> Iterator[Problem]:
    """Check that an image has four dimensions, and that preprocessing fits its channels, height and width."""
    yield from _elements(spec.shape, f"{where}.shape")
    if spec.layout and len(spec.shape) != 4:
        yield f"{where}.layout", f"{spec.layout} needs a shape of 4 dimensions, not {len(spec.shape)}"
        return
    steps = spec.preprocessing
    if steps is None:
        return
    channels, size = 1, None
    if spec.layout:
        channels = spec.shape[3] if spec.layout == "NHWC" else spec.shape[1]
        size = spec.shape[1:3] if spec.layout == "NHWC" else spec.shape[2:4]
    for key, values in (("mean", steps.mean), ("std", steps.std)):
        if len(values) not in (0, 1, channels):
            yield f"{where}.preprocessing.{key}", f"has {len(values)} values, expected none, 1 or {channels}"
    if steps.resize is not None and steps.resize != size:
        yield (
            f"{where}.preprocessing.resize",
            f"{list(steps.resize)} is not the input's height and width in an image layout",
        )


def postprocessing_problems(specs: Iterable[OutputSpec], steps: Postprocessing) -> Iterator[Problem]:
    """Check that the outputs exist, are floats, and have the same number of boxes and of score rows."""
    outputs = {output.name: output for output in specs}
    for key, name in (("scores", steps.scores), ("boxes", steps.boxes)):
        if name is not None and (name not in outputs or _kind(outputs[name].dtype) != "float"):
            yield f"postprocessing.{key}", f"there is no float output {name!r}"
            return
    scores = outputs[steps.scores].shape
    if steps.boxes is not None:
        yield from _boxes(steps, scores, outputs[steps.boxes].shape)
    elif not scores or any(dim != 1 for dim in scores[:-1]):
        yield "postprocessing.scores", f"{list(scores)} is not one row of scores: all but the last must be 1"
    elif steps.boxes_last:
        yield "postprocessing.boxes_last", "needs boxes, and none are declared"


def _boxes(steps: Postprocessing, scores: tuple[int, ...], boxes: tuple[int, ...]) -> Iterator[Problem]:
    """Check that each row of scores has four box values, in a separate output or before the scores in the same row."""
    if len(scores) < 2 or any(dim != 1 for dim in scores[:-2]):
        yield "postprocessing.scores", f"{list(scores)} is not the rows of one call: all but the last two must be 1"
        return
    if steps.boxes == steps.scores:
        if steps.classes(scores) < 1:
            yield (
                "postprocessing.boxes",
                f"{list(scores)} is too small for four box values and a score in each row",
            )
        return
    wanted = (*scores[:-2], 4, scores[-1]) if steps.boxes_last else (*scores[:-1], 4)
    if boxes != wanted:
        yield "postprocessing.boxes", f"is not {list(wanted)}, four values for each row of {list(scores)} of one call"


def _variant(manifest: Manifest, variant: Variant, where: str) -> Iterator[Problem]:
    """Check that a variant binds each input and output once, with a golden file and a tolerance for each output."""
    for key, have, want in (
        ("inputs", len(variant.inputs), len(manifest.inputs)),
        ("outputs", len(variant.outputs), len(manifest.outputs)),
        ("golden.outputs", len(variant.golden.outputs), len(manifest.outputs)),
        ("golden.max_abs", len(variant.golden.max_abs), len(manifest.outputs)),
    ):
        if have != want:
            yield f"{where}.{key}", f"has {have} values, expected {want}, one for each in the manifest"
    for i, (spec, binding) in enumerate(zip(manifest.inputs, variant.inputs)):
        yield from _binding(spec, binding, f"{where}.inputs[{i}]")
    for i, (output, bound) in enumerate(zip(manifest.outputs, variant.outputs)):
        yield from _output(output, bound, f"{where}.outputs[{i}]")
    for i, (limit, bound) in enumerate(zip(variant.golden.max_abs, variant.outputs)):
        if isinstance(limit, tuple) and len(limit) != len(bound.parts):
            yield f"{where}.golden.max_abs[{i}]", f"has {len(limit)} values for {len(bound.parts)} parts"
    for key, side in (("inputs", variant.inputs), ("outputs", variant.outputs)):
        yield from _unique(f"{where}.{key}", (f"index {part.index}" for bound in side for part in bound.parts))


def _output(output: OutputSpec, bound: TensorBinding | JoinedBinding, where: str) -> Iterator[Problem]:
    """Check the bindings of an output, and that the axis of a joined output exists."""
    axis = getattr(bound, "axis", None)
    if axis is not None and axis >= len(output.shape):
        yield f"{where}.axis", f"{list(output.shape)} has no axis {axis}"
    for part in bound.parts:
        yield from _binding(output, part, where)


def _binding(spec: InputSpec | OutputSpec, binding: TensorBinding, where: str) -> Iterator[Problem]:
    """Check that scale and zero point come together and map floats to a quantized dtype, else that the kinds agree."""
    if (binding.scale is None) != (binding.zero_point is None):
        yield where, "scale and zero_point must both be set, or neither"
    elif binding.scale is None or binding.zero_point is None:
        if _kind(spec.dtype) != _kind(binding.dtype):
            yield f"{where}.dtype", f"{binding.dtype} cannot represent {spec.dtype} without a scale"
    elif binding.dtype not in QUANTIZED_RANGES or _kind(spec.dtype) != "float":
        yield f"{where}.scale", f"cannot map {spec.dtype} to {binding.dtype}"
    else:
        low, high = QUANTIZED_RANGES[binding.dtype]
        if not low <= binding.zero_point <= high:
            yield (
                f"{where}.zero_point",
                f"{binding.zero_point} is not in {low}..{high}, the range of {binding.dtype}",
            )


def _kind(dtype: str) -> str:
    """Return ``float``, ``int`` (signed or not) or ``bool``."""
    return dtype.rstrip("0123456789").lstrip("u")
