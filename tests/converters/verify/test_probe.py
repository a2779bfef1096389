"""The reference of every comparison."""

from pathlib import Path

import numpy as np
import pytest

from edgekit_converters.data import DataSet
from edgekit_converters.records import ProbeRequest, Source, SourceRequest
from edgekit_converters.verify import probe as probing
from edgekit_runtime.errors import SourceError
from edgekit_runtime.manifest import InputSpec, OutputSpec

INPUTS = (InputSpec("x", (1, 3), "float32"), InputSpec("ids", (1, 2), "int64"))
SOURCE = Source(
    SourceRequest("keras", Path("model.keras")), "keras", INPUTS, (OutputSpec("y", (1, 3), "float32"),), (False, False)
)


@pytest.fixture
def model(monkeypatch):
    """Let the source be a function from arrays to arrays."""

    def use(run):
        live = type("Live", (), {"run": staticmethod(run)})
        monkeypatch.setattr(probing, "open_source", lambda _: live)

    return use


def test_noise_is_the_same_each_time_and_of_the_inputs_types(model, tmp_path):
    model(lambda batch: [batch[0] * 2])
    first = probing.probe(ProbeRequest(SOURCE, INPUTS), tmp_path)
    x, ids = (np.load(path) for path in first.inputs)
    assert (x.shape, x.dtype, ids.shape, ids.dtype) == ((8, 3), np.float32, (8, 2), np.int64)
    assert set(np.unique(ids)) == {0, 1}
    assert np.array_equal(np.load(first.outputs[0]), x * 2)
    again = probing.probe(ProbeRequest(SOURCE, INPUTS), tmp_path)
    assert np.array_equal(np.load(again.inputs[0]), x)


def test_samples_come_from_the_data_where_there_are_any(model, tmp_path):
    model(lambda batch: [batch[0]])
    arrays = np.arange(30, dtype=np.float32).reshape(10, 3), np.zeros((10, 2), np.int64)
    for name, array in zip("ab", arrays, strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    data = DataSet((str(tmp_path / "a.npy"), str(tmp_path / "b.npy")), None, (), 10, "", ())
    made = probing.probe(ProbeRequest(SOURCE, INPUTS, data), tmp_path)
    assert np.array_equal(np.load(made.inputs[0]), arrays[0][:8])


def test_a_model_that_looks_at_its_batch_is_asked_sample_by_sample(model, tmp_path):
    model(lambda batch: [batch[0] - batch[0].mean()])
    made = probing.probe(ProbeRequest(SOURCE, INPUTS), tmp_path)
    x = np.load(made.inputs[0])
    assert np.allclose(np.load(made.outputs[0]), x - x.mean(axis=1, keepdims=True))


def test_a_model_that_computes_nan_is_no_reference(model, tmp_path):
    model(lambda batch: [batch[0] * np.float32("nan")])
    with pytest.raises(SourceError, match="the model itself computes NaN or infinity in output 'y'"):
        probing.probe(ProbeRequest(SOURCE, INPUTS), tmp_path)
