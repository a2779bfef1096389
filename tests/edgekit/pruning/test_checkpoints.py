"""Checkpoints of rounds: resumed by the same training, removed by another, refused where there are none."""

import dataclasses
from types import SimpleNamespace

import pytest

from edgekit.plan.data import DataPlan
from edgekit.plan.option_declaration import build
from edgekit.plan.options import PruneOptions
from edgekit.pruning.checkpoints import RoundCheckpoints
from edgekit.pruning.options import plan_pruning
from edgekit.pruning.search import PruningResult
from edgekit_converters.records import Source, SourceRequest
from edgekit_runtime.errors import PlanError
from edgekit_runtime.format.manifest import InputSpec, Preprocessing

RESULT = PruningResult(None, (), (), None, 0.5, 0.45)  # without cuts, so that no stage runs again


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """Open the checkpoints of a pruning with these options."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "net.py").write_text("")
    (tmp_path / "train.npz").touch()
    spec = InputSpec("image", (1, 8, 8, 3), "float32", "NHWC")
    source = Source(SourceRequest("python", tmp_path / "net.py"), "torch", (spec,), (), ())
    data = DataPlan(calibrate="train.npz")
    targets = SimpleNamespace(schemes=("int8-static",), engines=("litert",))

    def open_checkpoints(scale=1.0, **options):
        inputs = (dataclasses.replace(spec, preprocessing=Preprocessing(None, scale, (), ())),)
        work = SimpleNamespace(source=source, inputs=inputs, data=data, targets=targets)
        values = {"train": tmp_path / "train.npz", "prune": 0.5} | options
        options = build(PruneOptions, values)
        return RoundCheckpoints(work, plan_pruning(options.pruning, options.training, options.data))

    return open_checkpoints


def test_a_resumed_pruning_repeats_the_selection(checkpoints):
    checkpoints(epochs=3).save(1, RESULT)
    again = checkpoints(epochs=9, learning_rate=0.1, resume=True)
    assert again.load(1, None) == RESULT
    assert again.load(2, None) is None


@pytest.mark.parametrize(
    "other", [{"prune": 0.4}, {"batch_size": 32}, {"seed": 1}, {"scale": 0.5}, {"importance": "l2"}, {"floor": 0.2}]
)
def test_a_pruning_with_other_options_is_not_resumed(checkpoints, other):
    checkpoints().save(1, RESULT)
    with pytest.raises(PlanError, match="--resume: there is no checkpoint of this training"):
        checkpoints(**other, resume=True)


def test_a_new_pruning_removes_all_earlier_rounds(checkpoints):
    first = checkpoints(rounds=2)
    first.save(1, RESULT)
    first.save(2, RESULT)
    checkpoints(rounds=2).save(1, RESULT)
    again = checkpoints(rounds=2, resume=True)
    assert again.load(1, None) == RESULT
    assert again.load(2, None) is None
