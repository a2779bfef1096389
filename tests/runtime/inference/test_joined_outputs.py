"""An output that is joined from several tensors: valid manifests, and the conversion to one array."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle.writer import write_bundle
from edgekit_runtime import open_bundle
from edgekit_runtime.engines import TensorInfo
from edgekit_runtime.errors import EngineUnavailable, MalformedBundle
from edgekit_runtime.format.manifest import (
    Golden,
    InputSpec,
    JoinedBinding,
    Manifest,
    OutputSpec,
    TensorBinding,
    Variant,
)
from edgekit_runtime.format.manifest_json import manifest_to_json, parse_manifest
from edgekit_runtime.inference.session import Session
from edgekit_runtime.placement.golden_check import failures, golden_differences

BOXES = TensorBinding(1, "boxes", "int8", 2.5, -128)
SCORES = TensorBinding(0, "scores", "uint8", 1 / 256, 0)
JOINED = JoinedBinding(2, (BOXES, SCORES))
RESULTS = {
    "scores": np.array([[[0], [128], [255]]], np.uint8),  # (1, 3, 1)
    "count": np.array([3.0], np.float32),
    "boxes": np.arange(-128, -116, dtype=np.int8).reshape(1, 3, 4),
}
INDICES = {"scores": 0, "boxes": 1, "count": 2}


class Detector:
    """An engine that returns the same scores, boxes and count for every input."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        self.inputs = (TensorInfo(0, "image", (1, 2), "float32"),)
        self.results = [RESULTS[name] for name in INDICES]
        self.outputs = tuple(
            TensorInfo(index, name, shapes.get(name, RESULTS[name].shape), str(RESULTS[name].dtype))
            for name, index in INDICES.items()
        )
        self.closed = False

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self.results

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def described(manifest: Manifest, variant: Variant) -> Manifest:
    """The manifest of a detector with one joined output and one of its own."""
    bound = (JOINED, TensorBinding(2, "count", "float32"))
    golden = replace(variant.golden, outputs=variant.golden.outputs * 2, max_abs=(1e-5, 1e-5))
    return replace(
        manifest,
        inputs=(InputSpec("image", (1, 2), "float32"),),
        outputs=(OutputSpec("detections", (1, 3, 5), "float32"), OutputSpec("count", (1,), "float32")),
        variants=(replace(variant, outputs=bound, golden=golden),),
    )


def test_the_parts_are_dequantized_each_by_its_own_scale_and_joined(described: Manifest) -> None:
    session = Session(described, described.variants[0], Detector())
    detections, count = session.run([np.zeros((1, 2), np.float32)])
    assert detections.dtype == np.float32
    np.testing.assert_array_equal(detections[..., :4], np.arange(0, 30, 2.5).reshape(1, 3, 4))
    np.testing.assert_array_equal(detections[..., 4], [[0, 0.5, 255 / 256]])
    assert count == [3.0]


def test_a_single_joined_output_has_no_shortcut(described: Manifest) -> None:
    alone = replace(described.variants[0], outputs=(JOINED,))
    detector = Detector()
    detector.outputs, detector.results = detector.outputs[:2], detector.results[:2]
    session = Session(replace(described, outputs=described.outputs[:1]), alone, detector)
    assert session.run_one is None
    assert session.run([np.zeros((1, 2), np.float32)])[0].shape == (1, 3, 5)


@pytest.mark.parametrize(
    "shapes",
    [
        {"boxes": (1, 3, 5)},  # nothing is left for the scores
        {"boxes": (1, 3, 3)},
        {"boxes": (3, 4)},
        {"boxes": (1, 4, 3)},
        {"scores": (1, 3, 2)},
        {"scores": (1, 4, 1)},
        {"scores": (1,)},
    ],
)
def test_parts_that_do_not_add_up_to_the_output_are_refused(described: Manifest, shapes: Any) -> None:
    detector = Detector(**shapes)
    with pytest.raises(EngineUnavailable, match="'detections': the artifact has"):
        Session(described, described.variants[0], detector)
    assert detector.closed


def test_an_artifact_with_fewer_tensors_is_refused(described: Manifest) -> None:
    detector = Detector()
    detector.outputs = detector.outputs[:2]
    with pytest.raises(EngineUnavailable, match="has 2 outputs, the manifest binds 3"):
        Session(described, described.variants[0], detector)


def test_a_joined_output_reads_back_equal(described: Manifest) -> None:
    assert manifest_to_json(described).count(b'"parts"') == 1
    text = _listed(described)
    assert parse_manifest(text).variants[0].outputs[0] == JOINED


def test_each_part_has_a_tolerance_of_its_own(described: Manifest, npy: Any, tmp_path: Path) -> None:
    expected = {
        "image": np.zeros((1, 1, 2), np.float32),
        "detections": np.concatenate(
            [np.arange(0, 30, 2.5).reshape(1, 1, 3, 4), np.array([0, 0.5, 1]).reshape(1, 1, 3, 1)], 3
        ).astype(np.float32),
        "count": np.array([[3]], np.float32),
    }
    files = {f"golden/{name}.npy": npy(array) for name, array in expected.items()} | {"weights.npy": npy(np.eye(2))}
    found = {}
    for name, limit in {"whole": 1.0, "parts": (1.0, 0.001)}.items():
        golden = Golden(("golden/detections.npy", "golden/count.npy"), (limit, 0.0))
        variant = replace(described.variants[0], files=("weights.npy",), golden=golden)
        manifest = replace(
            described,
            variants=(variant,),
            golden_inputs=("golden/image.npy",),
            outputs=tuple(replace(spec, labels=None) for spec in described.outputs),
        )
        write_bundle(manifest, files, tmp_path / f"{name}.edgekit")
        with open_bundle(tmp_path / f"{name}.edgekit") as bundle:
            read = bundle.manifest.variants[0]
            assert read.golden.max_abs == (limit, 0.0)
            found[name] = golden_differences(Session(bundle.manifest, read, Detector()), bundle, read)
    assert not failures(found["whole"])  # 1/256 is nothing in boxes' units
    assert [(one.output, one.holds) for one in found["parts"]] == [
        ("detections part 0", True),
        ("detections part 1", False),
        ("count", True),
    ]
    assert found["parts"][1].max_abs == pytest.approx(1 / 256)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ([[0.1, 0.1, 0.1], 0.1], "golden.max_abs[0]: has 3 values for 2 parts"),
        ([0.1, [0.1, 0.1]], "golden.max_abs[1]: has 2 values for 1 parts"),
        ([[0.1], 0.1], "golden.max_abs[0]"),
        ([[0.1, -0.1], 0.1], "golden.max_abs[0][1]"),
    ],
)
def test_a_wrong_number_of_tolerances_is_refused(described: Manifest, limits: Any, message: str) -> None:
    document = json.loads(_listed(described))
    document["variants"][0]["golden"]["max_abs"] = limits
    with pytest.raises(MalformedBundle) as refusal:
        parse_manifest(json.dumps(document).encode())
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axis": 3}, "outputs[0].axis: [1, 3, 5] has no axis 3"),
        ({"axis": 8}, "outputs[0].axis"),
        ({"axis": -1}, "outputs[0].axis"),
        ({"axis": None}, "outputs[0].axis"),
        ({"parts": []}, "outputs[0].parts"),
        ({"parts": 1}, "outputs[0].parts"),
        ({"parts": [{"index": 0, "name": "x", "dtype": "int8"}] * 65}, "outputs[0].parts"),
        ({"parts": [{"index": 1, "name": "x", "dtype": "float32"}]}, "outputs[0].parts"),
        ({"index": 0}, "outputs[0].index: unknown key"),
        ({"scale": 1.0}, "outputs[0].scale: unknown key"),
        ({"parts": [{"index": 1, "name": "x", "dtype": "float32"}] * 2}, "'index 1' is listed twice"),
        ({"parts": [{"index": i, "name": "x", "dtype": "float32"} for i in (2, 3)]}, "'index 2' is listed twice"),
        ({"parts": [{"index": i, "name": "x", "dtype": "int8"} for i in (0, 1)]}, "cannot represent float32"),
        ({"parts": [{"axis": 0, "parts": []}, {"axis": 0, "parts": []}]}, "outputs[0].parts[0].axis: unknown key"),
    ],
)
def test_invalid_joined_outputs_are_refused(described: Manifest, change: dict[str, Any], message: str) -> None:
    document = json.loads(_listed(described))
    document["variants"][0]["outputs"][0] |= change
    with pytest.raises(MalformedBundle) as refusal:
        parse_manifest(json.dumps(document).encode())
    assert message in str(refusal.value)


def test_an_input_is_never_joined(described: Manifest) -> None:
    document = json.loads(_listed(described))
    document["variants"][0]["inputs"][0] = document["variants"][0]["outputs"][0]
    with pytest.raises(MalformedBundle, match=r"inputs\[0\]\.axis: unknown key"):
        parse_manifest(json.dumps(document).encode())


def _listed(described: Manifest) -> bytes:
    """Return the manifest's bytes, with a record of every file that it names."""
    document = json.loads(manifest_to_json(described))
    paths = {"labels.txt", "golden/x.npy", "golden/y.npy", "variants/null-float32/weights.npy"}
    document["files"] = [{"path": path, "size_bytes": 1, "sha256": "0" * 64} for path in sorted(paths)]
    return json.dumps(document).encode()
