"""The manifest of a bundle as frozen records. docs/bundle-format.md is the specification.

``manifest_json`` reads and writes the file; ``consistency`` checks that the parts agree.
"""

from __future__ import annotations

from typing import Any

from edgekit_runtime.record import dataclass, field

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "model.sig"  # optional; never listed in the manifest, because it signs the manifest
MAX_FILES = 1024
DTYPES = ("float32", "float16", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "bool")


@dataclass(frozen=True)
class FileRecord:
    """One file of the bundle."""

    path: str  # relative, '/' separated
    size_bytes: int
    sha256: str
    encryption: str | None = None  # "aes-256-gcm"; size and digest are those of what is stored


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of the raw input: resize, then (x * scale - mean) / std per channel."""

    resize: tuple[int, int] | None = None  # height, width
    scale: float = 1.0
    mean: tuple[float, ...] = ()  # one value per channel, one for all channels, or none (0)
    std: tuple[float, ...] = ()  # as ``mean``; none means 1


@dataclass(frozen=True)
class InputSpec:
    """A model input as the application sees it, the same for every variant."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # numpy name
    layout: str | None = None  # "NHWC" or "NCHW" for images, else None
    preprocessing: Preprocessing | None = None


@dataclass(frozen=True)
class OutputSpec:
    """A model output as the application sees it, the same for every variant."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    labels: str | None = None  # path of a text file in the bundle, one label per line


@dataclass(frozen=True)
class Postprocessing:
    """How to read the outputs of one call: as classes, or as boxes with classes if ``boxes`` is set.

    ``boxes`` and ``scores`` may be the same output: each row then has the four numbers of a box and then its scores.
    """

    scores: str  # output with one score per class: (1, ..., classes), for boxes (1, ..., boxes, classes)
    activation: str = "none"  # applied to the scores: "none", "softmax" or "sigmoid"
    threshold: float = 0.0  # minimum score of a result
    top: int = 5  # maximum number of results
    boxes: str | None = None  # output with the boxes: (1, ..., boxes, 4)
    boxes_last: bool = False  # layout of both outputs: boxes on the last axis, values on the one before
    box_format: str = "yxyx"  # or "xyxy", or "cxcywh"
    iou: float = 0.5  # non-maximum suppression: limit of the overlap within a class

    def classes(self, shape: tuple[int, ...]) -> int:
        """Return the number of classes for a score output of this shape."""
        numbers = shape[-2] if self.boxes_last else shape[-1]
        return numbers - 4 if self.boxes == self.scores else numbers


@dataclass(frozen=True)
class TensorBinding:
    """How a model input or output maps to a tensor of the artifact.

    ``real = (quantized - zero_point) * scale`` if ``scale`` is set (per tensor).
    """

    index: int  # position in the artifact's list of inputs or outputs
    name: str  # the name in the artifact, for people
    dtype: str
    scale: float | None = None
    zero_point: int | None = None

    @property
    def parts(self) -> tuple[TensorBinding, ...]:
        """The tensor bindings: only this one."""
        return (self,)


@dataclass(frozen=True)
class JoinedBinding:
    """An output that the artifact splits into several tensors with a scale each. The runtime joins them.

    With one scale for boxes in 0..640 and scores in 0..1, all scores would be quantized to 0.
    """

    axis: int  # of the output, along which the parts are concatenated
    parts: tuple[TensorBinding, ...]


@dataclass(frozen=True)
class Requirements:
    """What a machine needs to run a variant."""

    arch: tuple[str, ...] = ()  # platform.machine() names; empty means any
    engine_version: str | None = None  # lowest version of the engine's library, such as "2.14"
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Accuracy:
    """Accuracy measured at conversion, as fractions in 0..1."""

    value: float
    drop: float  # source accuracy minus value
    samples: int


@dataclass(frozen=True)
class Golden:
    """The variant's outputs for the golden inputs of the bundle, and the tolerance on other machines."""

    outputs: tuple[str, ...]  # one .npy per output, shape (samples, *output shape), in manifest order
    max_abs: tuple[float | tuple[float, ...], ...]  # tolerance per output, or per part of a joined output


@dataclass(frozen=True)
class Variant:
    """One artifact of the model and its requirements."""

    name: str  # such as "litert-int8-static"
    engine: str  # a key of edgekit_runtime.engines.ENGINES
    device: str  # "cpu", "gpu", "npu"
    scheme: str  # such as "int8-static"
    files: tuple[str, ...]  # paths; the first is what the engine opens
    inputs: tuple[TensorBinding, ...]  # in the order of Manifest.inputs
    outputs: tuple[TensorBinding | JoinedBinding, ...]
    golden: Golden
    delegate: str | None = None
    requirements: Requirements = Requirements()
    accuracy: Accuracy | None = None
    settings: dict[str, str] = field(default_factory=dict)  # engine settings that fix the numerical results


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json."""

    model_name: str
    model_version: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    variants: tuple[Variant, ...]  # in order of preference
    files: tuple[FileRecord, ...]  # all files of the bundle except manifest.json and model.sig
    golden_inputs: tuple[str, ...]  # one .npy per input, shape (samples, *input shape)
    devices: tuple[dict[str, Any], ...] = ()  # snapshot of each device profile
    recipe: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] | None = None  # sha256 and sample count of the data
    versions: dict[str, str] = field(default_factory=dict)
    postprocessing: Postprocessing | None = None
    format_version: int = FORMAT_VERSION
