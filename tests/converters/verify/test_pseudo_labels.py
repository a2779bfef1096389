"""What a source says of data without labels: a class where it gives scores of classes, else all of its output."""

import numpy as np
import pytest

from edgekit_converters.data import DataSet
from edgekit_converters.records import PseudoLabelRequest, Source, SourceRequest
from edgekit_converters.verify import pseudo_labels
from edgekit_runtime.format.manifest import InputSpec, OutputSpec

X = np.random.default_rng(0).standard_normal((40, 5)).astype(np.float32)


@pytest.fixture
def answer(tmp_path, monkeypatch):
    """Answer with a function of the inputs."""
    np.save(tmp_path / "x.npy", X)

    def run(function, **request):
        class Live:
            def run(self, batch):
                return [function(batch[0])]

        monkeypatch.setattr(pseudo_labels, "open_source", lambda _: Live())
        inputs, outputs = (InputSpec("x", (1, 5), "float32"),), (OutputSpec("y", (1, 5), "float32"),)
        source = Source(SourceRequest("keras", tmp_path), "keras", inputs, outputs, (False,))
        data = DataSet((str(tmp_path / "x.npy"),), None, (), len(X), "", ())
        return np.load(pseudo_labels.pseudo_label(PseudoLabelRequest(source, inputs, data, **request), tmp_path).labels)

    return run


def test_probabilities_are_a_classifiers(answer):
    labels = answer(lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True))
    np.testing.assert_array_equal(labels, X.argmax(1))


def test_an_embedding_is_answered_as_it_is(answer):
    np.testing.assert_array_equal(answer(lambda x: x), X)


def test_logits_are_a_classifiers_where_the_user_names_classes(answer):
    np.testing.assert_array_equal(answer(lambda x: x, classes=True), X.argmax(1))


def test_a_single_number_is_no_class(answer):
    np.testing.assert_array_equal(answer(lambda x: x[:, :1], classes=True), X[:, :1])
