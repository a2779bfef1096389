"""Which metric data and model call for, and what it comes to."""

import numpy as np
import pytest

from edgekit_converters.data import DataSet
from edgekit_converters.records import EvaluatePartRequest, EvaluateRequest, EvaluationPart, Source, SourceRequest
from edgekit_converters.verify import metrics
from edgekit_converters.verify.metrics import METRICS, metric_for
from edgekit_runtime.errors import DataError
from edgekit_runtime.format.manifest import InputSpec, OutputSpec

VECTOR = (InputSpec("x", (1, 4), "float32"),)
SCORES = (OutputSpec("scores", (1, 3), "float32"),)
SAME = (OutputSpec("again", (1, 4), "float32"),)


@pytest.mark.parametrize(
    ("outputs", "labels", "name"),
    [
        (SCORES, np.array([0, 2]), "accuracy"),
        (SCORES, np.zeros((2, 3), np.float32), "mean_squared_error"),
        (SAME, None, "reconstruction_error"),
    ],
)
def test_the_metric_that_fits(outputs, labels, name):
    assert metric_for(VECTOR, outputs, labels).name == name


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (np.array([0, 1, 1]), "accuracy"),
        (np.array([0.0, 1, 1], np.float32), "accuracy"),
        (np.array([[0.0], [1], [1]], np.float32), "accuracy"),
        (np.array([3, 1, 7]), "mean_squared_error"),
        (np.array([0.5, 1, 0], np.float32), "mean_squared_error"),
        (np.array([[0.5], [1], [0]], np.float32), "mean_squared_error"),
    ],
)
def test_one_number_a_sample_is_a_binary_label_or_a_target(labels, name):
    metric = metric_for(VECTOR, (OutputSpec("y", (1, 1), "float32"),), labels)
    assert metric.name == name
    scores = np.array([[0.2], [0.9], [0.4]], np.float32)
    wanted = [1, 1, 0] if name == "accuracy" else (scores[:, 0] - labels.ravel()) ** 2
    assert list(metric.score([], [scores], labels)) == pytest.approx(list(wanted))


def test_a_single_score_must_be_a_probability():
    with pytest.raises(DataError, match=r"no probability.*end the model with a sigmoid"):
        METRICS["accuracy"].score([], [np.array([[0.2], [3.0]])], np.array([0, 1]))


def test_autoencoders_are_told_from_models_with_outputs_of_the_input_shape():
    x = np.random.default_rng(0).standard_normal((50, 8)) + 100
    assert metrics.reconstructs(x, 0.4 * x + 90)  # badly, and yet
    assert not metrics.reconstructs(x, np.tanh(x - 100) ** 2)
    assert not metrics.reconstructs(x, np.full_like(x, 100))  # the mean alone is none
    assert not metrics.reconstructs(x, x[:, :4])


@pytest.mark.parametrize("labels", [None, np.zeros((2, 7), np.float32)])
def test_data_that_no_metric_fits(labels):
    with pytest.raises(
        DataError, match=r"(no labels|labels of shape .*) and the outputs scores \(1, 3\): give class indices"
    ):
        metric_for(VECTOR, SCORES, labels)


def test_one_hot_labels_are_refused():
    with pytest.raises(DataError, match=r"float32 of shape \(2, 3\), are one-hot: give class indices, their argmax"):
        metric_for(VECTOR, SCORES, np.eye(3, dtype=np.float32)[[2, 0]])
    assert metric_for(VECTOR, SCORES, np.float32([[0, 1, 1], [0, 0, 1]])).name == "mean_squared_error"


def test_scores():
    inputs, outputs = [np.ones((2, 4))], [np.array([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1]])]
    assert list(METRICS["accuracy"].score(inputs, outputs, np.array([1, 1]))) == [1.0, 0.0]
    assert list(METRICS["mean_squared_error"].score(inputs, outputs, outputs[0] + 2)) == pytest.approx([4.0, 4.0])
    assert list(METRICS["reconstruction_error"].score(inputs, [np.zeros((2, 4))], None)) == [1.0, 1.0]


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    """Evaluate a model that gives its first three inputs as scores, on data."""

    class Live:
        def run(self, batch):
            return [batch[0][:, :3]]

    monkeypatch.setattr(metrics, "open_source", lambda _: Live())
    source = Source(SourceRequest("keras", tmp_path), "keras", VECTOR, SCORES, (False,))

    def request(x, labels, **more):
        np.save(tmp_path / "x.npy", x)
        np.save(tmp_path / "labels.npy", labels)
        data = DataSet((str(tmp_path / "x.npy"),), str(tmp_path / "labels.npy"), (), len(x), "", ())
        return EvaluateRequest(source, VECTOR, SCORES, data, **more)

    def run(x, labels, **more):
        return metrics.evaluate(request(x, labels, **more), tmp_path)

    run.request = request
    return run


def test_accuracy_over_several_batches(evaluate):
    x = np.eye(4, dtype=np.float32)[np.arange(600) % 3]
    labels = np.arange(600) % 3
    labels[:150] = (labels[:150] + 1) % 3
    evaluated = evaluate(x, labels)
    assert (evaluated.metric, evaluated.value, evaluated.samples) == ("accuracy", 0.75, 600)
    np.testing.assert_array_equal(np.load(evaluated.scores), np.arange(600) >= 150)


def test_a_part_missing_from_the_cache_is_computed_again(evaluate, tmp_path):
    x = np.eye(4, dtype=np.float32)[np.arange(600) % 3]
    labels = np.arange(600) % 5 % 3
    whole = np.load(evaluate(x, labels).scores)
    parts = []
    for first, end in ((0, 64), (64, 320), (320, 480)):  # the rest is left to the evaluation itself
        (tmp_path / str(first)).mkdir()
        np.save(tmp_path / str(first) / "0.npy", 10.0 + np.arange(end - first))  # so that it shows where it is taken
        parts.append(EvaluationPart(first, end - first, (tmp_path / str(first) / "0.npy",), 0.1))
    parts[1].arrays[0].unlink()
    evaluated = evaluate(x, labels, parts=tuple(parts))
    expected = np.concatenate([10.0 + np.arange(64), whole[64:320], 10.0 + np.arange(160), whole[480:]])
    np.testing.assert_array_equal(np.load(evaluated.scores), expected)


def test_a_part_is_as_long_as_its_time_or_its_samples(evaluate, tmp_path):
    x = np.eye(4, dtype=np.float32)[np.arange(600) % 3]
    request = evaluate.request(x, np.arange(600) % 3)
    part = metrics.evaluate_part(EvaluatePartRequest(request, 100, 250), tmp_path)
    assert (part.first, part.count, np.load(part.arrays[0]).tolist()) == (100, 150, [1.0] * 150)
    assert metrics.evaluate_part(EvaluatePartRequest(request, 100, 250, limit_s=0.0), tmp_path).count == metrics.BATCH


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_out_of_range_is_named(evaluate, label):
    labels = np.zeros(5, np.int64)
    labels[2] = label
    with pytest.raises(DataError, match=rf"sample 2 has the label {label}, but output 'scores' has classes 0\.\.2"):
        evaluate(np.ones((5, 4), np.float32), labels)
