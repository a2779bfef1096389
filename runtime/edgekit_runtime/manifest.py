"""The manifest: what a bundle says of itself, as frozen records. docs/bundle-format.md is its law."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FORMAT_VERSION = 1


@dataclass(frozen=True)
class FileRecord:
    """One file of the bundle."""

    path: str  # relative, '/' separated
    size_bytes: int
    sha256: str


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
class TensorBinding:
    """How one model input or output maps to the artifact's own tensor.

    ``real = (quantized - zero_point) * scale`` where ``scale`` is set (per tensor).
    """

    index: int  # position in the artifact's list of inputs or outputs
    name: str  # the artifact's own name, for people
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


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
    max_abs: tuple[float, ...]  # tolerance an output, in the output's unit


@dataclass(frozen=True)
class Variant:
    """One artifact of the model and what it needs."""

    name: str  # such as "litert-int8-static"
    engine: str  # a key of edgekit_runtime.engines.ENGINES
    device: str  # "cpu", "gpu", "npu"
    scheme: str  # such as "int8-static"
    files: tuple[str, ...]  # paths; the first is what the engine opens
    inputs: tuple[TensorBinding, ...]  # in the order of Manifest.inputs
    outputs: tuple[TensorBinding, ...]
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
    format_version: int = FORMAT_VERSION
