"""Postprocessing: from the options, with defaults from the model's outputs."""

from dataclasses import replace

import numpy as np
import pytest

from edgekit.plan.option_declaration import build
from edgekit.plan.options import ConversionOptions
from edgekit.plan.postprocessing import declare, requested, suggest
from edgekit_runtime.errors import PlanError
from edgekit_runtime.format.manifest import OutputSpec, Postprocessing

SCORES = OutputSpec("scores", (1, 10), "float32")
YOLO = OutputSpec("output0", (1, 84, 8400), "float32")  # four numbers and 80 classes, for 8400 boxes
SSD = (OutputSpec("places", (1, 1917, 4), "float32"), OutputSpec("classes", (1, 1917, 91), "float32"))


def options_of(**values):
    return build(ConversionOptions, values).postprocessing


def declared(outputs, names=0, **options):
    return declare(requested(options_of(**options)), outputs, names)


def test_without_options_nothing_is_declared():
    assert requested(options_of(labels="classes.txt", scale=0.5)) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "relu"}, "--activation relu: expected one of none, softmax, sigmoid"),
        ({"threshold": float("nan")}, "--threshold nan"),
        ({"top": 0}, "--top 0: expected a whole number from 1 to 65536"),
        ({"boxes": "b", "box_format": "xyxy", "iou": 1.5}, r"--iou 1\.5: expected a number from 0 to 1"),
        ({"boxes": "b", "box_format": "xywh"}, "--box-format xywh: expected one of yxyx, xyxy, cxcywh"),
        ({"boxes": "b"}, "--boxes needs --box-format"),
        ({"iou": 0.5}, "--box-format and --iou go with --boxes"),
        ({"box_format": "xyxy"}, "--box-format and --iou go with --boxes"),
    ],
)
def test_contradicting_options_are_refused_before_the_model_is_opened(options, message):
    with pytest.raises(PlanError, match=message):
        requested(options_of(**options))


def test_classes_of_the_only_output():
    assert declared([SCORES], activation="softmax") == Postprocessing("scores", "softmax")
    assert declared([SCORES], top=3, threshold=0.0) == Postprocessing("scores", top=3)


def test_a_yolo_output_is_read_along_its_last_axis():
    wanted = Postprocessing("output0", "none", 0.25, 100, "output0", True, "cxcywh", 0.7)
    asked_for = {"boxes": "output0", "box_format": "cxcywh", "iou": 0.7}
    assert declared([YOLO], 80, **asked_for) == declared([YOLO], **asked_for) == wanted
    turned = replace(YOLO, shape=(1, 8400, 84))
    assert declared([turned], 80, **asked_for).boxes_last is declared([turned], **asked_for).boxes_last is False
    few = replace(YOLO, shape=(1, 84, 12))  # fewer boxes than numbers a box: only the names can tell
    assert declared([few], 80, **asked_for).boxes_last is True
    assert declared([few], 8, **asked_for).boxes_last is False


def test_boxes_in_a_separate_output():
    wanted = Postprocessing("classes", "sigmoid", 0.4, 100, "places", False, "yxyx", 0.5)
    asked_for = {"boxes": "places", "box_format": "yxyx", "activation": "sigmoid", "threshold": 0.4}
    assert declared(SSD, **asked_for) == wanted
    turned = [replace(spec, shape=(1, spec.shape[2], spec.shape[1])) for spec in SSD]
    assert declared(turned, **asked_for).boxes_last is True


@pytest.mark.parametrize(
    ("outputs", "options", "message"),
    [
        (SSD, {"activation": "softmax"}, "--scores: name the output with the class scores: places, classes"),
        ([SCORES], {"scores": "logits", "top": 1}, "--scores: there is no float output 'logits'; .* scores float32"),
        ([SCORES], {"boxes": "b", "box_format": "xyxy"}, "--boxes: there is no float output 'b'"),
        ([OutputSpec("a", (1, 10), "int64")], {"top": 1}, "--scores: there is no float output 'a'"),
        ([OutputSpec("a", (1, 7, 3), "float32")], {"top": 1}, "--scores: .1, 7, 3. is not one row of scores"),
        ([OutputSpec("a", (1, 4, 3), "float32")], {"boxes": "a", "box_format": "xyxy"}, "small for four box values"),
        ([*SSD[:1], SCORES], {"boxes": "places", "box_format": "xyxy"}, "--boxes: is not .1, 4., four values for"),
    ],
)
def test_options_that_do_not_fit_the_outputs_are_refused_with_the_outputs(outputs, options, message):
    with pytest.raises(PlanError, match=message):
        declared(outputs, **options)


@pytest.mark.parametrize(
    ("values", "probabilities"),
    [([[0.1, 0.9], [1.0, 0.0]], True), ([[0.0, 1.0004]], True), ([[-0.5, 0.5]], False), ([[3.0, 0.5]], False)],
)
def test_named_probabilities_are_declared_as_classes_and_logits_get_a_note(tmp_path, values, probabilities):
    np.save(tmp_path / "y.npy", np.array(values, np.float32))
    found, notes = suggest(SCORES, tmp_path / "y.npy")
    assert (found, notes == ()) == ((Postprocessing("scores"), True) if probabilities else (None, False))
    assert all("--activation softmax" in note for note in notes)
