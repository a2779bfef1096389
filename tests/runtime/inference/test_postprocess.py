"""Postprocessing equals results computed by hand, and suppression equals its definition in loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit_runtime
from edgekit_runtime.errors import MalformedBundle
from edgekit_runtime.format.manifest import Manifest, OutputSpec, Postprocessing
from edgekit_runtime.inference.postprocess import Answer, non_max_suppression, postprocess, sigmoid, softmax
from edgekit_runtime.model import read_labels

LABELS = {"scores": ("cat", "dog", "owl")}


def classes(scores: list[float], **how: Any) -> list[tuple[str, float]]:
    declared = Postprocessing("scores", **how)
    found = postprocess(declared, {"scores": np.array([scores], np.float32)}, LABELS)
    return [(answer.label, round(answer.score, 6)) for answer in found]


def test_classes_are_sorted_by_score() -> None:
    assert classes([0.25, 0.5, 0.125]) == [("dog", 0.5), ("cat", 0.25), ("owl", 0.125)]
    assert classes([0.25, 0.5, 0.125], top=1) == [("dog", 0.5)]
    assert classes([0.25, 0.5, 0.125], threshold=0.25) == [("dog", 0.5), ("cat", 0.25)]
    assert classes([0.5, 0.25, 0.5]) == [("cat", 0.5), ("owl", 0.5), ("dog", 0.25)]  # equal ones in their order
    assert classes([math.nan, 0.25, 0.5]) == [("owl", 0.5), ("dog", 0.25)]
    assert classes([0.1, 0.2, 0.3], threshold=0.9) == []


def test_activations_equal_their_formulas() -> None:
    # e^0 : e^ln2 : e^ln5 = 1 : 2 : 5
    assert classes([0.0, math.log(2), math.log(5)], activation="softmax") == [
        ("owl", 0.625),
        ("dog", 0.25),
        ("cat", 0.125),
    ]
    assert classes([0.0, math.log(3), -math.log(3)], activation="sigmoid") == [
        ("dog", 0.75),
        ("cat", 0.5),
        ("owl", 0.25),
    ]
    huge = np.array([[1e4, -1e4, 1e4]], np.float32)
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_array_equal(softmax(huge), [[0.5, 0, 0.5]])
        np.testing.assert_array_equal(sigmoid(huge), [[1, 0, 1]])


def test_without_labels_the_index_is_the_name() -> None:
    found = postprocess(Postprocessing("s", top=1), {"s": np.array([[0.1, 0.7]])}, {})
    assert found == (Answer(1, "1", pytest.approx(0.7)),)


@pytest.mark.parametrize(
    ("box_format", "numbers"),
    [("yxyx", [2, 4, 10, 8]), ("xyxy", [4, 2, 8, 10]), ("cxcywh", [6, 6, 4, 8])],
)
def test_boxes_of_every_format_become_top_left_bottom_right(box_format: str, numbers: list[float]) -> None:
    declared = Postprocessing("scores", boxes="boxes", box_format=box_format)
    outputs = {"scores": np.array([[[0.1, 0.8, 0.3]]]), "boxes": np.array([[numbers]], np.float32)}
    assert postprocess(declared, outputs, LABELS) == (Answer(1, "dog", pytest.approx(0.8), (2.0, 4.0, 10.0, 8.0)),)


def test_a_detection_equals_one_computed_by_hand() -> None:
    # The second box covers 80 of the first's 100 and has 80 itself: 80 / 100. The third touches both nowhere.
    boxes = np.array([[[0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30], [0, 0, 10, 9]]], np.float32)
    scores = np.array([[[0.9, 0, 0], [0.8, 0, 0], [0, 0, 0.7], [0, 0.6, 0]]], np.float32)
    outputs = {"scores": scores, "boxes": boxes}

    def found(**how: Any) -> list[tuple[str, float]]:
        declared = Postprocessing("scores", boxes="boxes", **how)
        return [(a.label, round(a.score, 3)) for a in postprocess(declared, outputs, LABELS)]

    assert found() == [("cat", 0.9), ("owl", 0.7), ("dog", 0.6)]  # another class is left alone
    assert found(iou=0.8) == [("cat", 0.9), ("cat", 0.8), ("owl", 0.7), ("dog", 0.6)]  # 0.8 is not above 0.8
    assert found(iou=0.79, top=2) == [("cat", 0.9), ("owl", 0.7)]
    assert found(threshold=0.65) == [("cat", 0.9), ("owl", 0.7)]


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("boxes_last", [False, True])
def test_boxes_can_be_on_the_last_axis_and_share_an_output_with_scores(joint: bool, boxes_last: bool) -> None:
    rng = np.random.default_rng(3)
    corner = rng.uniform(0, 40, (50, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 25, (50, 2))], axis=1)[None].astype(np.float32)
    scores = rng.normal(size=(1, 50, 3)).astype(np.float32)
    how = {"activation": "sigmoid", "threshold": 0.4, "top": 20, "iou": 0.2}
    expected = postprocess(Postprocessing("scores", boxes="boxes", **how), {"scores": scores, "boxes": boxes}, LABELS)
    assert 5 < len(expected) <= 20
    outputs = {"scores": np.concatenate([boxes, scores], axis=2)} if joint else {"scores": scores, "boxes": boxes}
    if boxes_last:
        outputs = {name: output.swapaxes(1, 2).copy() for name, output in outputs.items()}
    declared = Postprocessing("scores", boxes="scores" if joint else "boxes", boxes_last=boxes_last, **how)
    assert postprocess(declared, outputs, LABELS) == expected
    assert declared.classes(outputs["scores"].shape) == 3


def test_labels_are_as_many_as_there_are_classes_beside_boxes(make: Callable[..., Path], npy: Any) -> None:
    # four numbers of a box from four weights, and one class: the scores' output has 5 x 1
    declared = Postprocessing("scores", boxes="scores", boxes_last=True)
    spec = OutputSpec("scores", (1, 5, 1), "float32", "labels.txt")
    built = {"outputs": (spec,), "postprocessing": declared}
    with edgekit_runtime.open_bundle(make(also={"labels.txt": b"thing\n"}, **built)) as bundle:
        assert read_labels(bundle) == {"scores": ("thing",)}
    with (
        edgekit_runtime.open_bundle(make(also={"labels.txt": b"a\nb\nc\nd\ne\n"}, **built)) as bundle,
        pytest.raises(MalformedBundle, match="has 5 labels"),
    ):
        read_labels(bundle)


def naive(boxes: Any, scores: Any, of: Any, iou: float, threshold: float) -> list[int]:
    """The definition: in the order of the scores, keep boxes that no kept box of their class overlaps too far."""
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if scores[i] < threshold:
            continue
        for k in kept:
            height = min(boxes[i][2], boxes[k][2]) - max(boxes[i][0], boxes[k][0])
            width = min(boxes[i][3], boxes[k][3]) - max(boxes[i][1], boxes[k][1])
            shared = max(height, 0) * max(width, 0)
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (boxes[i], boxes[k])]
            if of[i] == of[k] and sum(areas) > shared and shared / (sum(areas) - shared) > iou:
                break
        else:
            kept.append(i)
    return kept


@pytest.mark.parametrize("seed", range(30))
def test_non_max_suppression_equals_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 120))
    corner = rng.integers(0, 40, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(0, 25, (count, 2))], axis=1).astype(np.float64)
    scores = rng.integers(0, 50, count) / 50  # with ties
    of = rng.integers(0, 3, count)
    for iou in (0.0, 0.3, 0.5, 1.0):
        assert non_max_suppression(boxes, scores, of, iou, 0.2) == naive(boxes, scores, of, iou, 0.2)


def test_a_model_postprocesses_as_its_bundle_declares(make: Callable[..., Path], weights: np.ndarray) -> None:
    with edgekit_runtime.load(make(postprocessing=Postprocessing("scores", "softmax", top=2))) as model:
        x = np.random.default_rng(5).normal(size=(1, 2, 2, 3)).astype(np.float32)
        y = model(x)
        found = model.postprocess(y)
        assert found == model.postprocess({"scores": y})
        shares = np.exp(y[0]) / np.exp(y[0]).sum()
        assert [answer.index for answer in found] == np.argsort(-shares)[:2].tolist()
        assert found[0].label == ("north", "east", "south", "west")[int(np.argmax(y))]
        assert found[0].score == pytest.approx(shares.max(), rel=1e-5)


def test_a_bundle_without_postprocessing_is_refused(bundle_path: Path) -> None:
    with edgekit_runtime.load(bundle_path) as model, pytest.raises(MalformedBundle, match="does not declare"):
        model.postprocess(np.zeros((1, 4), np.float32))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (Postprocessing("logits"), r"postprocessing\.scores: there is no float output 'logits'"),
        (Postprocessing("count"), r"postprocessing\.scores: there is no float output 'count'"),
        (Postprocessing("scores", boxes="places"), r"postprocessing\.boxes: there is no float output 'places'"),
        (Postprocessing("grid"), r"postprocessing\.scores: \[1, 7, 3\] is not one row"),
        (Postprocessing("grid", boxes="scores"), r"postprocessing\.boxes: is not \[1, 7, 4\]"),
        (Postprocessing("grid", boxes="grid"), r"postprocessing\.boxes: \[1, 7, 3\] is too small"),
        (Postprocessing("count_", boxes="grid"), r"there is no float output 'count_'"),
        (Postprocessing("scores", boxes_last=True), r"postprocessing\.boxes_last: needs boxes"),
        (Postprocessing("deep", boxes="grid"), r"postprocessing\.scores: \[2, 7, 9\] is not the rows of one call"),
        (Postprocessing("scores", "relu"), r"postprocessing\.activation: is 'relu'"),
        (Postprocessing("scores", top=0), r"postprocessing\.top: is 0"),
        (Postprocessing("scores", threshold=math.inf), r"cannot be written"),
        (Postprocessing("scores", iou=-0.1), r"postprocessing\.iou: is -0.1"),
        (Postprocessing("scores", box_format="xywh"), r"postprocessing\.box_format: is 'xywh'"),
    ],
    ids=str,
)
def test_postprocessing_that_does_not_match_the_outputs_is_refused(
    make: Callable[..., Path], manifest: Manifest, steps: Postprocessing, message: str
) -> None:
    more = (OutputSpec("grid", (1, 7, 3), "float32"), OutputSpec("count", (1,), "int32"))
    more = (*more, OutputSpec("deep", (2, 7, 9), "float32"))
    with pytest.raises(MalformedBundle, match=message):
        make(outputs=(*manifest.outputs, *more), postprocessing=steps)
