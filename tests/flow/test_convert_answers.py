"""Postprocessing from the command line to the bundle and its results."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import edgekit
import edgekit_runtime
from edgekit.cli import cli
from edgekit_runtime.errors import DataError, PlanError
from edgekit_runtime.format.manifest import Postprocessing

pytestmark = pytest.mark.needs_openvino

NAMES = ("lamp", "chair", "table")
# x, y, width, height and three logits of three boxes; the second lies in the first, which is the better
FOUND = np.array([[20, 10, 8, 4, 2, -3, -3], [21, 10, 8, 4, 1, -3, -3], [50, 40, 6, 6, -3, -3, 3]], np.float32)


@pytest.fixture
def folder(tmp_path):
    """A model that finds FOUND where the input is 1, as YOLO tells it: (1, 7, boxes); and one that has three logits."""
    import openvino
    from openvino import opset13 as op

    for name, weights, shape in (("yolo", FOUND.T.reshape(1, -1), [1, 7, 3]), ("net", FOUND[:1, 4:], [1, 3])):
        x = op.parameter([1, 1], dtype=np.float32, name="x")
        product = op.matmul(x, op.constant(weights), False, False)
        y = op.reshape(product, op.constant(np.array(shape)), False)
        model = openvino.Model([op.result(y)], [x], name)
        model.inputs[0].set_names({"x"})
        model.outputs[0].set_names({"output0"})
        openvino.save_model(model, tmp_path / f"{name}.xml", compress_to_fp16=False)
    (tmp_path / "names.txt").write_text("\n".join(NAMES), encoding="utf-8")
    np.save(tmp_path / "x.npy", np.ones((1, 1), np.float32))
    return tmp_path


def test_boxes_and_their_scores_in_one_output(folder):
    bundle = folder / "yolo.edgekit"
    asked = {"boxes": "output0", "box_format": "cxcywh", "activation": "sigmoid", "labels": folder / "names.txt"}
    edgekit.convert(folder / "yolo.xml", bundle, **asked)
    with edgekit_runtime.load(bundle) as model:
        assert model.manifest.postprocessing == Postprocessing(
            "output0", "sigmoid", 0.25, 100, boxes="output0", boxes_last=True, box_format="cxcywh"
        )
        found = model.postprocess(model(np.ones((1, 1), np.float32)))
    assert [(answer.label, answer.box) for answer in found] == [
        ("table", (37.0, 47.0, 43.0, 53.0)),
        ("lamp", (8.0, 16.0, 12.0, 24.0)),
    ]
    assert [answer.score for answer in found] == pytest.approx([1 / (1 + np.exp(-3)), 1 / (1 + np.exp(-2))])
    done = CliRunner().invoke(cli, ["run", str(bundle), str(folder / "x.npy"), "--json"], catch_exceptions=False)
    assert [answer["label"] for answer in json.loads(done.stdout)["answers"]] == ["table", "lamp"]
    shown = CliRunner().invoke(cli, ["inspect", str(bundle)], catch_exceptions=False)
    assert "answers  boxes (cxcywh) in output0 by sigmoid of output0, at most 100, of 0.25 or more" in shown.stdout


def test_classes_of_logits_are_declared_with_an_activation(folder):
    (folder / "plan.toml").write_text(
        'model = "net.xml"\noutput = "net.edgekit"\nlabels = "names.txt"\n'
        '[postprocessing]\nactivation = "softmax"\ntop = 2\n'
    )
    done = CliRunner().invoke(cli, ["convert", "--plan", str(folder / "plan.toml"), "--json"], catch_exceptions=False)
    assert not any("--activation" in note for note in json.loads(done.stdout)["notes"])
    with edgekit_runtime.load(folder / "net.edgekit") as model:
        best, second = model.postprocess(model(np.ones((1, 1), np.float32)))
    assert (best.label, second.label) == ("lamp", "chair")
    assert best.score == pytest.approx(1 / (1 + 2 * np.exp(-5)), rel=1e-5)
    report = edgekit.convert(folder / "net.xml", folder / "plain.edgekit", labels=folder / "names.txt")
    assert any("--activation softmax" in note for note in report.notes)
    with edgekit_runtime.load(folder / "plain.edgekit") as model:
        assert model.manifest.postprocessing is None
        assert model.labels == {"output0": NAMES}


def test_an_unknown_output_is_refused_and_no_bundle_is_written(folder):
    with pytest.raises(PlanError, match="--scores: there is no float output 'logits'; the model's outputs: output0"):
        edgekit.convert(folder / "net.xml", folder / "net.edgekit", scores="logits", activation="softmax")
    (folder / "four.txt").write_text("a\nb\nc\nd")
    with pytest.raises(DataError, match="4 labels; the output 'output0' has 3 classes"):
        asked = {"boxes": "output0", "box_format": "cxcywh", "labels": folder / "four.txt"}
        edgekit.convert(folder / "yolo.xml", folder / "net.edgekit", **asked)
    assert not (folder / "net.edgekit").exists()
