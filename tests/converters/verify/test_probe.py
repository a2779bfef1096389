"""The reference of every comparison."""

from pathlib import Path

import numpy as np
import pytest

from edgekit_converters.data import DataSet
from edgekit_converters.records import ProbeRequest, Source, SourceRequest
from edgekit_converters.verify import probe as probing
from edgekit_runtime.errors import SourceError
from edgekit_runtime.format.manifest import InputSpec, OutputSpec

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


def dataset(folder, first, count):
    """Samples of which the first value of input a tells which they are."""
    folder.mkdir()
    a = np.repeat(np.arange(first, first + count, dtype=np.float32)[:, None], 3, axis=1)
    for name, array in (("a", a), ("b", np.zeros((count, 2), np.int64))):
        np.save(folder / f"{name}.npy", array)
    return DataSet((str(folder / "a.npy"), str(folder / "b.npy")), None, (), count, "", ())


def taken(model, folder, *sets):
    model(lambda batch: [batch[0]])
    made = probing.probe(ProbeRequest(SOURCE, INPUTS, sets), folder)
    return np.load(made.inputs[0])[:, 0].tolist()


def test_samples_are_spread_over_the_data(model, tmp_path):
    assert taken(model, tmp_path, dataset(tmp_path / "d", 0, 71)) == [0, 10, 20, 30, 40, 50, 60, 70]
    assert taken(model, tmp_path, dataset(tmp_path / "few", 0, 3)) == [0, 1, 2]


def test_samples_come_from_both_sets_in_turn(model, tmp_path):
    calibration, evaluation = dataset(tmp_path / "c", 0, 31), dataset(tmp_path / "e", 100, 31)
    assert taken(model, tmp_path, calibration, evaluation) == [0, 100, 10, 110, 20, 120, 30, 130]


def test_a_model_that_depends_on_its_batch_runs_sample_by_sample(model, tmp_path):
    model(lambda batch: [batch[0] - batch[0].mean()])
    made = probing.probe(ProbeRequest(SOURCE, INPUTS), tmp_path)
    x = np.load(made.inputs[0])
    assert np.allclose(np.load(made.outputs[0]), x - x.mean(axis=1, keepdims=True))


def test_a_model_that_computes_nan_is_no_reference(model, tmp_path):
    model(lambda batch: [batch[0] * np.float32("nan")])
    with pytest.raises(SourceError, match="the model itself computes NaN or infinity in output 'y'"):
        probing.probe(ProbeRequest(SOURCE, INPUTS), tmp_path)
