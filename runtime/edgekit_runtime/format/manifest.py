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
    """What the application's raw input goes through: resize, then (x * scale - mean) / std per channel."""

    resize: tuple[int, int] | None = None  # height, width
    scale: float = 1.0
    mean: tuple[float, ...] = ()  # one value a channel, or one for all, or none (0)
    std: tuple[float, ...] = ()  # likewise; none means 1


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
    labels: str | None = None  # path of a text file in the bundle, one label a line


@dataclass(frozen=True)
class Postprocessing:
    """What the outputs of one call mean: classes, or boxes with classes where ``boxes`` is set.

    ``boxes`` may be the output that ``scores`` is: a row is then a box's four numbers, and its scores behind them.
    """

    scores: str  # the output with a score a class: (1, ..., classes), for boxes (1, ..., boxes, classes)
    activation: str = "none"  # what makes scores of it: "none", "softmax" or "sigmoid"
    threshold: float = 0.0  # least score of an answer
    top: int = 5  # most answers
    boxes: str | None = None  # the output with the boxes: (1, ..., boxes, 4)
    boxes_last: bool = False  # the boxes lie along the last axis of both, their numbers along the one before it
    box_format: str = "yxyx"  # or "xyxy", or "cxcywh"
    iou: float = 0.5  # a box that overlaps a better one of its class by more than this is dropped

    def classes(self, shape: tuple[int, ...]) -> int:
        """How many classes an output of scores of this shape has."""
        numbers = shape[-2] if self.boxes_last else shape[-1]
        return numbers - 4 if self.boxes == self.scores else numbers


@dataclass(frozen=True)
class TensorBinding:
    """How one model input or output maps to the artifact's own tensor.

    ``real = (quantized - zero_point) * scale`` where ``scale`` is set (per tensor).
    """

    index: int  # position in the artifact's list of inputs or outputs
    name: str  # the artifact's own name, for people
    dtype: str
    scale: float | None = None
    zero_point: int | None = None

    @property
    def parts(self) -> tuple[TensorBinding, ...]:
        """The tensors it speaks of: itself alone."""
        return (self,)


@dataclass(frozen=True)
class JoinedBinding:
    """An output that the artifact gives in several tensors, each with a scale of its own: the runtime joins them.

    One scale for boxes in 0..640 and scores in 0..1 would leave nothing of the scores.
    """

    axis: int  # of the output: along it the parts lie one behind the other
    parts: tuple[TensorBinding, ...]


@dataclass(frozen=True)
class Requirements:
    """What a machine must offer before the variant is tried."""

    arch: tuple[str, ...] = ()  # platform.machine() names; empty means any
    engine_version: str | None = None  # lowest version of the engine's library, such as "2.14"
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Accuracy:
    """Measured at conversion, fractions in 0..1."""

    value: float
    drop: float  # source accuracy minus value
    samples: int


@dataclass(frozen=True)
class Golden:
    """The variant's own outputs for the bundle's golden inputs, and how far another machine may be off."""

    outputs: tuple[str, ...]  # one .npy an output, shape (samples, *output shape), in manifest order
    max_abs: tuple[float | tuple[float, ...], ...]  # tolerance an output, in its unit; of a joined one, a part


@dataclass(frozen=True)
class Variant:
    """One artifact of the model and what it needs."""

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
    settings: dict[str, str] = field(default_factory=dict)  # engine settings that pin the numbers


@dataclass(frozen=True)
class Manifest:
    """The whole of manifest.json."""

    model_name: str
    model_version: str
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    variants: tuple[Variant, ...]  # in order of preference
    files: tuple[FileRecord, ...]  # every file of the bundle but manifest.json (and model.sig)
    golden_inputs: tuple[str, ...]  # one .npy an input, shape (samples, *input shape)
    devices: tuple[dict[str, Any], ...] = ()  # snapshot of each device profile
    recipe: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] | None = None  # sha256 and sample count of the data
    versions: dict[str, str] = field(default_factory=dict)
    postprocessing: Postprocessing | None = None
    format_version: int = FORMAT_VERSION
