"""What is remembered of a choice: made again for the same training, forgotten by another, refused where none is."""

import dataclasses
from types import SimpleNamespace

import pytest

from edgekit.plan.data import DataPlan
from edgekit.plan.declaration import build
from edgekit.plan.options import PruneOptions
from edgekit.pruning.checkpoints import Memory
from edgekit.pruning.options import plan_pruning
from edgekit.pruning.search import PruningResult
from edgekit_converters.records import Source, SourceRequest
from edgekit_runtime.errors import PlanError
from edgekit_runtime.format.manifest import InputSpec, Preprocessing

CHOSEN = PruningResult(None, (), (), None, 0.5, 0.45)  # nothing was cut, so that nothing has to be made again


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """Open the memory of a pruning that is asked for so."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "net.py").write_text("")
    (tmp_path / "train.npz").touch()
    spec = InputSpec("image", (1, 8, 8, 3), "float32", "NHWC")
    source = Source(SourceRequest("python", tmp_path / "net.py"), "torch", (spec,), (), ())
    data = DataPlan(calibrate="train.npz")
    targets = SimpleNamespace(schemes=("int8-static",), engines=("litert",))

    def open_memory(scale=1.0, **options):
        inputs = (dataclasses.replace(spec, preprocessing=Preprocessing(None, scale, (), ())),)
        work = SimpleNamespace(source=source, inputs=inputs, data=data, targets=targets)
        values = {"train": tmp_path / "train.npz", "prune": 0.5} | options
        options = build(PruneOptions, values)
        return Memory(work, plan_pruning(options.pruning, options.training, options.data))

    return open_memory


def test_who_goes_on_cuts_what_was_chosen(memory):
    memory(epochs=3).keep(1, CHOSEN)
    again = memory(epochs=9, learning_rate=0.1, resume=True)
    assert again.recall(1, None) == CHOSEN
    assert again.recall(2, None) is None


@pytest.mark.parametrize(
    "other", [{"prune": 0.4}, {"batch_size": 32}, {"seed": 1}, {"scale": 0.5}, {"importance": "l2"}, {"floor": 0.2}]
)
def test_what_was_asked_otherwise_is_not_gone_on_with(memory, other):
    memory().keep(1, CHOSEN)
    with pytest.raises(PlanError, match="--resume: there is no checkpoint of this training"):
        memory(**other, resume=True)


def test_who_begins_anew_forgets_all_rounds_of_before(memory):
    first = memory(rounds=2)
    first.keep(1, CHOSEN)
    first.keep(2, CHOSEN)
    memory(rounds=2).keep(1, CHOSEN)
    again = memory(rounds=2, resume=True)
    assert again.recall(1, None) == CHOSEN
    assert again.recall(2, None) is None
