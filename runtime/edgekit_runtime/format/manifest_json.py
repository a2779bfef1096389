"""``manifest.json``: the schema of untrusted JSON, and reading and writing of manifests."""

from __future__ import annotations

from typing import Any

from edgekit_runtime.errors import MalformedBundle, UnsupportedVersion
from edgekit_runtime.format.consistency import MAX_TOTAL_BYTES, problems
from edgekit_runtime.format.manifest import (
    DTYPES,
    FORMAT_VERSION,
    MAX_FILES,
    Accuracy,
    FileRecord,
    Golden,
    InputSpec,
    JoinedBinding,
    Manifest,
    OutputSpec,
    Postprocessing,
    Preprocessing,
    Requirements,
    TensorBinding,
    Variant,
)
from edgekit_runtime.format.strict_json import decode
from edgekit_runtime.format.validators import (
    Check,
    any_object,
    boolean,
    integer,
    list_of,
    number,
    object_with,
    one_of,
    optional,
    plain_name,
    record,
    refuse,
    relative_path,
    string_map,
    text,
)

MAX_TOLERANCE = 1e9  # a larger tolerance would accept any output
ENCRYPTION = "aes-256-gcm"

_shape = list_of(integer(1, 1 << 31), most=8)

_file = record(
    FileRecord,
    path=relative_path,
    size_bytes=integer(0, MAX_TOTAL_BYTES),
    sha256=text("[0-9a-f]{64}", "64 lower-case hexadecimal digits"),
    encryption=optional(one_of(ENCRYPTION)),
)
_preprocessing = record(
    Preprocessing,
    resize=optional(list_of(integer(1, 1 << 14), 2, 2)),
    scale=number(above=0),
    mean=list_of(number(), most=4096),
    std=list_of(number(above=0), most=4096),
)
_input = record(
    InputSpec,
    name=text(),
    shape=_shape,
    dtype=one_of(*DTYPES),
    layout=optional(one_of("NHWC", "NCHW")),
    preprocessing=optional(_preprocessing),
)
_output = record(OutputSpec, name=text(), shape=_shape, dtype=one_of(*DTYPES), labels=optional(relative_path))
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
_joined = record(JoinedBinding, axis=integer(0, 7), parts=list_of(_binding, 2))
_requirements = record(
    Requirements,
    arch=list_of(plain_name),
    engine_version=optional(text(r"\d+(\.\d+)*", "a version such as 2.14", 32)),
    memory_bytes=optional(integer(0, 1 << 50)),
)
_accuracy = record(Accuracy, value=number(), drop=number(), samples=integer(1, 1 << 50))


def _tolerance(value: Any, where: str) -> float | tuple[float, ...]:
    """Check a tolerance: a number for the whole output, or one for each part of it."""
    tolerance = number(0, most=MAX_TOLERANCE)
    return list_of(tolerance, 2)(value, where) if isinstance(value, list) else tolerance(value, where)


_golden = record(Golden, outputs=list_of(relative_path, 1), max_abs=list_of(_tolerance, 1))


def _output_binding(value: Any, where: str) -> TensorBinding | JoinedBinding:
    """Check an output binding; a joined one has parts."""
    return _joined(value, where) if "parts" in any_object(value, where) else _binding(value, where)


_variant = record(
    Variant,
    name=plain_name,
    engine=plain_name,
    device=one_of("cpu", "gpu", "npu"),
    scheme=plain_name,
    files=list_of(relative_path, 1),
    inputs=list_of(_binding, 1),
    outputs=list_of(_output_binding, 1),
    golden=_golden,
    delegate=optional(plain_name),
    requirements=_requirements,
    accuracy=optional(_accuracy),
    settings=string_map,
)


def _device(value: Any, where: str) -> dict[str, Any]:
    """Check the snapshot of a device profile. Only name, arch and variants are used; the rest is for people."""
    device = any_object(value, where)
    plain_name(device.get("name"), f"{where}.name")
    plain_name(device.get("arch"), f"{where}.arch")
    list_of(plain_name)(device.get("variants", []), f"{where}.variants")
    return device


_TOP: dict[str, Check[Any]] = {
    "inputs": list_of(_input, 1),
    "outputs": list_of(_output, 1),
    "postprocessing": optional(_postprocessing),
    "variants": list_of(_variant, 1, 256),
    "files": list_of(_file, 1, MAX_FILES),
    "golden_inputs": list_of(relative_path, 1),
    "devices": list_of(_device, most=256),
    "recipe": any_object,
    "calibration": optional(any_object),
    "versions": string_map,
}
_NEEDED = ("inputs", "outputs", "variants", "files", "golden_inputs")


def manifest_to_json(manifest: Manifest) -> bytes:
    """Return the content of ``manifest.json``: keys in the order of the records, indented by 2, UTF-8, final newline.

    Raises:
        MalformedBundle: a value is not finite, or not valid in JSON.
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


def parse_manifest(data: bytes) -> Manifest:
    """Read ``manifest.json`` and check all rules of the format.

    ``parse_manifest(manifest_to_json(manifest)) == manifest`` for every manifest of this format whose free objects
    (``devices``, ``recipe``, ``calibration``) hold lists, not tuples.

    Raises:
        UnsupportedVersion: a newer edgekit wrote it.
        MalformedBundle: it breaks another rule; the message names the key.
    """
    document = any_object(decode(data), "the top level")
    version = document.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UnsupportedVersion(
            f"manifest.json: format_version is {version}, this edgekit-runtime reads up to {FORMAT_VERSION}: "
            "update it with pip install -U edgekit-runtime"
        )
    integer(1, FORMAT_VERSION)(version, "format_version")
    object_with(document, "", {"format_version", "model", *_TOP}, {"format_version", "model", *_NEEDED})
    model = object_with(document["model"], "model", {"name", "version"}, {"name", "version"})
    manifest = Manifest(
        model_name=text()(model["name"], "model.name"),
        model_version=text()(model["version"], "model.version"),
        **{key: check(document[key], key) for key, check in _TOP.items() if key in document},
    )
    for where, problem in problems(manifest):
        refuse(where, problem)
    return manifest
