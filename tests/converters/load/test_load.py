"""What every loader relies on: kinds, shapes, and batches that a model may or may not take."""

import numpy as np
import pytest

from edgekit_converters import load as loading
from edgekit_converters.frameworks.loaders import LOADERS
from edgekit_converters.load import fixed_shape, given_shapes, in_batches, kind_of, one_by_one
from edgekit_converters.records import InputShape, SourceRequest
from edgekit_runtime.errors import SourceError
from edgekit_runtime.format.manifest import InputSpec, OutputSpec


@pytest.mark.parametrize(("kind", "suffix"), [(kind, suffix) for kind in LOADERS for suffix in LOADERS[kind].suffixes])
def test_a_suffix_is_one_kind(tmp_path, kind, suffix):
    path = tmp_path / f"model{suffix.upper()}"
    path.touch()
    assert kind_of(path) == kind


def test_a_folder_is_a_saved_model_or_nothing(tmp_path):
    with pytest.raises(SourceError, match="not a SavedModel"):
        kind_of(tmp_path)
    (tmp_path / "saved_model.pb").touch()
    assert kind_of(tmp_path) == "saved_model"


@pytest.mark.parametrize(("name", "message"), [("model.weights", "not a supported model"), ("none.h5", "no such file")])
def test_what_is_no_model(tmp_path, name, message):
    (tmp_path / "model.weights").touch()
    with pytest.raises(SourceError, match=message):
        kind_of(tmp_path / name)


def test_the_batch_becomes_one():
    assert fixed_shape("x", (None, 4), None) == (1, 4)
    assert fixed_shape("x", (8, 4), None) == (1, 4)


def test_an_open_size_is_asked_for_with_an_example():
    with pytest.raises(SourceError, match=r"such as --input-shape image=1,N,N,3"):
        fixed_shape("image", (None, None, None, 3), None)
    assert fixed_shape("image", (None, None, None, 3), InputShape((1, 8, 9, 3))) == (1, 8, 9, 3)


@pytest.mark.parametrize("said", [(1, 8, 8, 4), (1, 8, 8)])
def test_a_said_shape_must_fit(said):
    with pytest.raises(SourceError, match="--input-shape is"):
        fixed_shape("image", (None, None, None, 3), InputShape(said))


def test_shapes_are_said_by_name_or_by_place(tmp_path):
    named, unnamed = InputShape((1, 2), "b"), InputShape((1, 3))
    request = SourceRequest("keras", tmp_path, input_shapes=(named, unnamed))
    assert given_shapes(request, ["a", "b", "c"]) == (unnamed, named, None)
    assert given_shapes(request, ["b", "a"]) == (named, unnamed)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["foo"], "no input 'foo'; there are a, b"),
        (["a", "a"], "gives the shape of input 'a' more than once"),
        ([None, None, None], "given 3 times; the inputs are a, b"),
        (["a", "b", None], "given 3 times; the inputs are a, b"),
    ],
)
def test_a_shape_for_no_input_is_refused(tmp_path, names, message):
    request = SourceRequest("keras", tmp_path, input_shapes=tuple(InputShape((1, 2), name) for name in names))
    with pytest.raises(SourceError, match=message):
        given_shapes(request, ["a", "b"])


def test_a_model_that_takes_batches_gets_them():
    seen = []

    def run(batch):
        seen.append(len(batch[0]))
        return [batch[0] * 2]

    x = np.arange(12.0).reshape(6, 2)
    assert np.array_equal(in_batches(run)([x])[0], x * 2)
    assert seen[-1] == 6


@pytest.mark.parametrize(
    "run",
    [
        lambda batch: [batch[0].reshape(1, -1)[:, :2]],  # keeps the first sample alone
        lambda batch: [batch[0] - batch[0].mean()],  # mixes samples
        lambda batch: [np.dot(np.ones((1, 1)), batch[0])],  # raises for more than one
    ],
)
def test_a_model_with_a_fixed_batch_runs_sample_by_sample(run):
    x = np.arange(12.0).reshape(6, 2)
    expected = np.concatenate([run([row[None]])[0] for row in x])
    assert np.array_equal(in_batches(run)([x])[0], expected)


def test_one_by_one_keeps_every_output_in_order():
    x = np.arange(6.0).reshape(3, 2)
    first, second = one_by_one(lambda batch: [batch[0] + 1, batch[0].sum(axis=1)], [x])
    assert np.array_equal(first, x + 1)
    assert np.array_equal(second, x.sum(axis=1))


@pytest.mark.parametrize("shape", [(100, 4), ()])
def test_an_output_without_a_batch_is_refused(tmp_path, monkeypatch, shape):
    live = loading.LoadedModel(
        "torch", (InputSpec("x", (1, 2), "float32"),), (OutputSpec("boxes", shape, "float32"),), lambda _: [], None
    )
    monkeypatch.setattr(loading, "open_source", lambda _: live)
    with pytest.raises(SourceError, match=r"'boxes' has the shape .* dimension for the batch"):
        loading.load(SourceRequest("torch_program", tmp_path / "m.pt2"), tmp_path)
