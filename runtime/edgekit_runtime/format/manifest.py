"""The manifest: what a bundle says of itself, as frozen records. docs/bundle-format.md is its law."""

from __future__ import annotations

from typing import Any

from edgekit_runtime.errors import MalformedBundle, UnsupportedVersion
from edgekit_runtime.format.consistency import MAX_TOTAL_BYTES, problems
from edgekit_runtime.format.strict_json import decode
from edgekit_runtime.format.validators import (
    Check,
    anything,
    boolean,
    integer,
    known,
    many,
    number,
    one_of,
    optional,
    record,
    refuse,
    text,
    words,
)
from edgekit_runtime.record import dataclass, field

FORMAT_VERSION = 1


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


# What a manifest may say. ----------------------------------------------------------------------------

MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "model.sig"  # optional, never listed: it signs the manifest
MAX_FILES = 1024
MAX_TOLERANCE = 1e9  # what lets anything pass is none
ENCRYPTION = "aes-256-gcm"
DTYPES = ("float32", "float16", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "bool")

_WORD = r"[A-Za-z0-9_@+=][A-Za-z0-9_@+=.-]*"
_word = text(_WORD, "letters, digits and _@+=.- (no leading dot or dash)", 96)
_path = text(f"{_WORD}(/{_WORD}){{0,7}}", "a relative path of plain names, '/' between them", 240)
_shape = many(integer(1, 1 << 31), most=8)

_file = record(
    FileRecord,
    path=_path,
    size_bytes=integer(0, MAX_TOTAL_BYTES),
    sha256=text("[0-9a-f]{64}", "64 lower-case hexadecimal digits"),
    encryption=optional(one_of(ENCRYPTION)),
)
_preprocessing = record(
    Preprocessing,
    resize=optional(many(integer(1, 1 << 14), 2, 2)),
    scale=number(above=0),
    mean=many(number(), most=4096),
    std=many(number(above=0), most=4096),
)
_input = record(
    InputSpec,
    name=text(),
    shape=_shape,
    dtype=one_of(*DTYPES),
    layout=optional(one_of("NHWC", "NCHW")),
    preprocessing=optional(_preprocessing),
)
_output = record(OutputSpec, name=text(), shape=_shape, dtype=one_of(*DTYPES), labels=optional(_path))
_postprocessing = record(
    Postprocessing,
    scores=text(),
    activation=one_of("none", "softmax", "sigmoid"),
    threshold=number(),
    top=integer(1, 1 << 16),
    boxes=optional(text()),
    boxes_last=boolean,
    box_format=one_of("yxyx", "xyxy", "cxcywh"),
    iou=number(0),
)
_binding = record(
    TensorBinding,
    index=integer(0, 255),
    name=text(),
    dtype=one_of(*DTYPES),
    scale=optional(number(above=0)),
    zero_point=optional(integer(-(1 << 15), (1 << 16) - 1)),
)
_joined = record(JoinedBinding, axis=integer(0, 7), parts=many(_binding, 2))
_requirements = record(
    Requirements,
    arch=many(_word),
    engine_version=optional(text(r"\d+(\.\d+)*", "a version such as 2.14", 32)),
    memory_bytes=optional(integer(0, 1 << 50)),
)
_accuracy = record(Accuracy, value=number(), drop=number(), samples=integer(1, 1 << 50))


def _tolerance(value: Any, where: str) -> float | tuple[float, ...]:
    """A number for the whole output, or one for each part of it."""
    one = number(0, most=MAX_TOLERANCE)
    return many(one, 2)(value, where) if isinstance(value, list) else one(value, where)


_golden = record(Golden, outputs=many(_path, 1), max_abs=many(_tolerance, 1))


def _output_binding(value: Any, where: str) -> TensorBinding | JoinedBinding:
    """What is joined has parts."""
    return _joined(value, where) if "parts" in anything(value, where) else _binding(value, where)


_variant = record(
    Variant,
    name=_word,
    engine=_word,
    device=one_of("cpu", "gpu", "npu"),
    scheme=_word,
    files=many(_path, 1),
    inputs=many(_binding, 1),
    outputs=many(_output_binding, 1),
    golden=_golden,
    delegate=optional(_word),
    requirements=_requirements,
    accuracy=optional(_accuracy),
    settings=words,
)


def _device(value: Any, where: str) -> dict[str, Any]:
    """A profile's snapshot: its name, its arch and the variants made for it are read, the rest is told."""
    device = anything(value, where)
    _word(device.get("name"), f"{where}.name")
    _word(device.get("arch"), f"{where}.arch")
    many(_word)(device.get("variants", []), f"{where}.variants")
    return device


_TOP: dict[str, Check[Any]] = {
    "inputs": many(_input, 1),
    "outputs": many(_output, 1),
    "postprocessing": optional(_postprocessing),
    "variants": many(_variant, 1, 256),
    "files": many(_file, 1, MAX_FILES),
    "golden_inputs": many(_path, 1),
    "devices": many(_device, most=256),
    "recipe": anything,
    "calibration": optional(anything),
    "versions": words,
}
_NEEDED = ("inputs", "outputs", "variants", "files", "golden_inputs")


def to_json(manifest: Manifest) -> bytes:
    """The bytes of ``manifest.json``: the records' own key order, indented by 2, UTF-8, a newline at the end.

    Raises:
        MalformedBundle: a value is not finite, or is none that JSON can hold.
    """
    import json
    from dataclasses import asdict

    fields = asdict(manifest)
    model = {"name": fields["model_name"], "version": fields["model_version"]}
    document = {"format_version": fields["format_version"], "model": model, **{key: fields[key] for key in _TOP}}
    try:
        return (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (ValueError, TypeError) as error:
        raise MalformedBundle(f"manifest.json: cannot be written: {error}") from error


def parse(data: bytes) -> Manifest:
    """Read ``manifest.json`` and hold it against every rule of the format.

    Law: ``parse(to_json(manifest)) == manifest`` for every manifest of this format whose free objects
    (``devices``, ``recipe``, ``calibration``) hold lists rather than tuples.

    Raises:
        UnsupportedVersion: a newer edgekit wrote it.
        MalformedBundle: anything else is wrong; the message names the key.
    """
    document = anything(decode(data), "the top level")
    version = document.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UnsupportedVersion(
            f"manifest.json: format_version is {version}, this edgekit-runtime reads up to {FORMAT_VERSION}: "
            "update it with pip install -U edgekit-runtime"
        )
    integer(1, FORMAT_VERSION)(version, "format_version")
    known(document, "", {"format_version", "model", *_TOP}, {"format_version", "model", *_NEEDED})
    model = known(document["model"], "model", {"name", "version"}, {"name", "version"})
    manifest = Manifest(
        model_name=text()(model["name"], "model.name"),
        model_version=text()(model["version"], "model.version"),
        **{key: check(document[key], key) for key, check in _TOP.items() if key in document},
    )
    for where, problem in problems(manifest):
        refuse(where, problem)
    return manifest
