"""manifest.json: valid values, and the messages about invalid ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgekit_runtime.errors import MalformedBundle, UnsupportedVersion
from edgekit_runtime.format.manifest import Accuracy, FileRecord, Manifest, Requirements, TensorBinding
from edgekit_runtime.format.manifest_json import manifest_to_json, parse_manifest

DIGEST = "0" * 64


@pytest.fixture
def whole(manifest: Manifest, files: dict[str, bytes]) -> Manifest:
    """The manifest of the classifier, with every record in use."""
    variant = replace(
        manifest.variants[0],
        requirements=Requirements(("x86_64", "aarch64"), "1.2", 1 << 20),
        accuracy=Accuracy(0.9, -0.01, 50),
        settings={"INFERENCE_PRECISION_HINT": "f32"},
    )
    return replace(
        manifest,
        variants=(variant,),
        files=tuple(FileRecord(path, len(data), DIGEST) for path, data in files.items()),
        devices=({"name": "board", "arch": "aarch64", "variants": ["null-float32"], "cores": 4},),
        recipe={"schemes": ["float32"], "ünïcode": {"deep": [1, 2.5, None, True]}},
        calibration={"sha256": DIGEST, "samples": 3},
        versions={"numpy": "2.0"},
    )


@pytest.fixture
def edited(whole: Manifest) -> Callable[..., bytes]:
    """Return the manifest with the value at a path of keys replaced, or removed."""

    def edit(path: str, *value: Any) -> bytes:
        document = json.loads(manifest_to_json(whole))
        *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        place = document
        for key in parents:
            place = place[key]
        if value:
            place[last] = value[0]
        else:
            del place[last]
        return json.dumps(document).encode()

    return edit


def test_a_written_manifest_reads_back_equal(whole: Manifest) -> None:
    assert parse_manifest(manifest_to_json(whole)) == whole


def test_the_bytes_are_stable(whole: Manifest) -> None:
    text = manifest_to_json(whole)
    assert manifest_to_json(parse_manifest(text)) == text
    assert text.endswith(b"}\n")
    assert list(json.loads(text)) == [
        *("format_version", "model", "inputs", "outputs", "postprocessing", "variants", "files", "golden_inputs"),
        *("devices", "recipe", "calibration", "versions"),
    ]


REFUSED = [
    ("surprise", 1, "surprise: unknown key"),
    ("model.surprise", 1, "model.surprise: unknown key"),
    ("variants.0.golden.surprise", 1, "variants[0].golden.surprise: unknown key"),
    ("format_version", 0, "format_version"),
    ("format_version", True, "format_version"),
    ("format_version", "1", "format_version"),
    ("model.name", "", "model.name"),
    ("model.name", "bell\x07", "model.name"),
    ("model.name", "right-to-left\u202e", "model.name"),
    ("model.name", "x" * 257, "model.name"),
    ("inputs", [], "inputs"),
    ("inputs", {}, "inputs"),
    ("inputs.0.shape.0", 0, "inputs[0].shape[0]"),
    ("inputs.0.shape.1", -2, "inputs[0].shape[1]"),
    ("inputs.0.shape.1", 2.0, "inputs[0].shape[1]"),
    ("inputs.0.shape", [2] * 9, "inputs[0].shape"),
    ("inputs.0.shape", [1, 2**20, 2**20, 3], "inputs[0].shape"),
    ("inputs.0.dtype", "object", "inputs[0].dtype"),
    ("inputs.0.dtype", ["float32"], "inputs[0].dtype"),
    ("inputs.0.layout", "CHWN", "inputs[0].layout"),
    ("inputs.0.shape", [1, 12], "inputs[0].layout"),
    ("inputs.0.preprocessing.mean", [0.5, 0.5], "inputs[0].preprocessing.mean"),
    ("inputs.0.preprocessing.std", [0.0], "inputs[0].preprocessing.std[0]"),
    ("inputs.0.preprocessing.scale", "1", "inputs[0].preprocessing.scale"),
    ("inputs.0.preprocessing.resize", [2, 3], "inputs[0].preprocessing.resize"),
    ("inputs.0.preprocessing.resize", [2], "inputs[0].preprocessing.resize"),
    ("outputs.0.labels", "other.txt", "outputs[0].labels"),
    ("variants.0.name", "../x", "variants[0].name"),
    ("variants.0.device", "tpu", "variants[0].device"),
    ("variants.0.files", [], "variants[0].files"),
    ("variants.0.files.0", "other.npy", "variants[0].files"),
    ("variants.0.inputs", [], "variants[0].inputs"),
    ("variants.0.inputs.0.index", 256, "variants[0].inputs[0].index"),
    ("variants.0.inputs.0.dtype", "int8", "variants[0].inputs[0].dtype"),
    ("variants.0.inputs.0.scale", 0.5, "variants[0].inputs[0]: scale and zero_point"),
    ("variants.0.golden.max_abs", [], "variants[0].golden.max_abs"),
    ("variants.0.golden.max_abs", [0.1, 0.1], "variants[0].golden.max_abs"),
    ("variants.0.golden.max_abs.0", -0.1, "variants[0].golden.max_abs[0]"),
    ("variants.0.golden.outputs.0", "nowhere.npy", "variants[0].golden.outputs"),
    ("variants.0.requirements.engine_version", "two", "variants[0].requirements.engine_version"),
    ("variants.0.requirements.memory_bytes", -1, "variants[0].requirements.memory_bytes"),
    ("variants.0.accuracy.samples", 0, "variants[0].accuracy.samples"),
    ("variants.0.settings", {"HINT": 1}, "variants[0].settings.HINT"),
    ("files.0.sha256", "0" * 63, "files[0].sha256"),
    ("files.0.sha256", "A" * 64, "files[0].sha256"),
    ("files.0.size_bytes", -1, "files[0].size_bytes"),
    ("files.0.size_bytes", 1.5, "files[0].size_bytes"),
    ("files.0.size_bytes", 2**40, "files[0].size_bytes"),
    ("golden_inputs", [], "golden_inputs"),
    ("golden_inputs.0", "nowhere.npy", "golden_inputs"),
    ("devices.0.name", None, "devices[0].name"),
    ("devices.0.variants", ["nobody"], "devices[0].variants"),
    ("recipe", [], "recipe"),
    ("versions.numpy", 2, "versions.numpy"),
]


@pytest.mark.parametrize(("path", "value", "said"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_wrong_value_is_refused_with_its_key(edited: Callable[..., bytes], path: str, value: Any, said: str) -> None:
    with pytest.raises(MalformedBundle) as refusal:
        parse_manifest(edited(path, value))
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    "path",
    ["model", "model.name", "inputs", "files", "files.0.sha256", "variants.0.golden", "variants.0.golden.max_abs"],
)
def test_a_missing_key_is_named(edited: Callable[..., bytes], path: str) -> None:
    with pytest.raises(MalformedBundle, match="is missing"):
        parse_manifest(edited(path))


@pytest.mark.parametrize("path", ["devices", "recipe", "calibration", "versions", "variants.0.settings"])
def test_keys_with_a_default_may_be_missing(edited: Callable[..., bytes], path: str) -> None:
    assert parse_manifest(edited(path)).model_name == "quarters"


@pytest.mark.parametrize(
    "path",
    [
        *("../up.npy", "/etc/passwd", "a/../b", "a//b", "a/", "./a", "a\\b", "C:/a", "c:a", "a\x00b", "a\nb", " a"),
        *(".hidden", "a/.hidden", "-rf", "ü.npy", "~/a", "", "a" * 241, "/".join("abcdefghi")),
    ],
)
def test_unusual_paths_are_refused(edited: Callable[..., bytes], path: str) -> None:
    with pytest.raises(MalformedBundle, match=r"files\[0\]\.path"):
        parse_manifest(edited("files.0.path", path))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("LABELS.TXT", "is listed twice"),
        ("labels.txt/more", "inside another file"),
        ("manifest.json", "reserved"),
        ("model.sig", "reserved"),
        ("Manifest.JSON/x", "reserved"),
    ],
)
def test_paths_that_would_collide_are_refused(whole: Manifest, path: str, said: str) -> None:
    with pytest.raises(MalformedBundle, match=said):
        parse_manifest(manifest_to_json(replace(whole, files=(*whole.files, FileRecord(path, 1, DIGEST)))))


def test_names_are_unique(whole: Manifest) -> None:
    for parts in (
        {"variants": whole.variants * 2},
        {"devices": whole.devices * 2},
        {"outputs": whole.outputs * 2},
        {"inputs": whole.inputs * 2},
    ):
        with pytest.raises(MalformedBundle, match="is listed twice"):
            parse_manifest(manifest_to_json(replace(whole, **parts)))


@pytest.mark.parametrize(
    ("binding", "said"),
    [
        (TensorBinding(0, "x", "int8", 0.1, 128), "zero_point"),
        (TensorBinding(0, "x", "uint8", 0.1, -1), "zero_point"),
        (TensorBinding(0, "x", "int32", 0.1, 0), "scale"),
        (TensorBinding(0, "x", "float32", 0.1, 0), "scale"),
        (TensorBinding(0, "x", "int32"), "dtype"),
    ],
)
def test_an_invalid_quantization_is_refused(whole: Manifest, binding: TensorBinding, said: str) -> None:
    variant = replace(whole.variants[0], inputs=(binding,))
    with pytest.raises(MalformedBundle, match=rf"variants\[0\].inputs\[0\].{said}"):
        parse_manifest(manifest_to_json(replace(whole, variants=(variant,))))


def test_a_newer_format_is_refused_as_newer(edited: Callable[..., bytes]) -> None:
    document = json.loads(edited("format_version", 2))
    with pytest.raises(UnsupportedVersion, match=r"format_version is 2.*update"):
        parse_manifest(json.dumps({**document, "something": "new"}).encode())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_not_written(whole: Manifest, value: float) -> None:
    with pytest.raises(MalformedBundle, match="cannot be written"):
        manifest_to_json(replace(whole, recipe={"loss": value}))
