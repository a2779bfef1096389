"""A split evaluation is bit-identical to a serial one, and only long evaluations are split."""

from dataclasses import replace

import numpy as np
import pytest

from edgekit.parallel import evaluation
from edgekit.parallel.executor import Threads
from edgekit_converters.data import DataSet
from edgekit_converters.execution.runner import Runner, new_log
from edgekit_converters.execution.stage_cache import Cache
from edgekit_converters.records import Artifact, EvaluateRequest, Source, SourceRequest, UserMetric
from edgekit_runtime.errors import DataError
from edgekit_runtime.format.manifest import InputSpec, OutputSpec, TensorBinding

COUNT, FEATURES, CLASSES = 700, 6, 3
SIDE_BY_SIDE = Threads(2, startup_s=1e-9)  # however little is left


@pytest.fixture
def request_for(tmp_path):
    """Ask for the evaluation of a matrix, on samples with labels."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.standard_normal((COUNT, FEATURES)).astype(np.float32))
    labels = {
        "classes": rng.integers(0, CLASSES, COUNT),
        "targets": rng.standard_normal((COUNT, CLASSES)).astype(np.float32),
    }
    np.save(tmp_path / "matrix.npy", rng.standard_normal((FEATURES, CLASSES)).astype(np.float32))

    def make(kind="classes", **more):
        np.save(tmp_path / f"{kind}.npy", labels[kind])
        data = DataSet((str(tmp_path / "x.npy"),), str(tmp_path / f"{kind}.npy"), (), COUNT, kind, ())
        float_tensors = ((TensorBinding(0, name, "float32"),) for name in ("x", "y"))
        matrix = Artifact("null", "float32", (tmp_path / "matrix.npy",), *float_tensors)
        inputs = (InputSpec("x", (1, FEATURES), "float32"),)
        return EvaluateRequest(matrix, inputs, (OutputSpec("y", (1, CLASSES), "float32"),), data, **more)

    return make


@pytest.fixture
def runner(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "SERIAL_S", 0.0)  # a batch
    with Runner(new_log(tmp_path), Cache(tmp_path / "cache"), jobs=2) as made:
        yield made


def evaluate(runner, request, executor=SIDE_BY_SIDE):
    """Evaluate on several workers at once."""
    return evaluation.evaluate(runner, executor, request, "matrix")


def alone(folder):
    """Another command, which knows nothing yet."""
    return Runner(new_log(folder), Cache(folder / "other"))


def parts_of(runner):
    return [cost for cost in runner.costs if cost.stage == "evaluate_part"]


@pytest.mark.parametrize("kind", ["classes", "targets"])
def test_a_split_evaluation_gives_the_same_result(runner, request_for, tmp_path, kind):
    divided = evaluate(runner, request_for(kind))
    first, *others = (cost.subject for cost in parts_of(runner))
    ends = sorted(tuple(map(int, subject.removeprefix("matrix ").split("–"))) for subject in others)
    assert (first, len(ends), ends[0][0], ends[-1][1]) == ("matrix", 7, 33, COUNT)
    assert [begin - 1 for begin, _ in ends[1:]] == [end for _, end in ends[:-1]]
    with alone(tmp_path) as other:
        whole = evaluate(other, request_for(kind), Threads(1))
        assert not parts_of(other)
        assert (divided.metric, divided.value, divided.samples) == (whole.metric, whole.value, COUNT)
        np.testing.assert_array_equal(np.load(divided.scores), np.load(whole.scores))


def test_a_user_metric_sees_all_outputs_in_order(runner, request_for, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(f"""
import numpy as np

def score(outputs, labels):
    y, x, matrix = outputs["y"], np.load({str(tmp_path / "x.npy")!r}), np.load({str(tmp_path / "matrix.npy")!r})
    assert np.allclose(y, x @ matrix, atol=1e-5) and labels.shape == ({COUNT},)
    return float(y[3, 1])
""")
    divided = evaluate(runner, request_for(metric=UserMetric(own, "score")))
    with alone(tmp_path) as other:
        assert divided.value == evaluate(other, request_for(metric=UserMetric(own, "score")), Threads(1)).value
    assert divided.code == (own,)


def test_a_failing_sample_is_named_by_its_index_in_the_data_set(runner, request_for, tmp_path):
    own = tmp_path / "own.py"
    own.write_text("def score(outputs, labels):\n    return 1 / (outputs['y'].max(axis=1) < outputs['y'].max())\n")
    largest = (np.load(tmp_path / "x.npy") @ np.load(tmp_path / "matrix.npy")).max(axis=1).argmax()
    with pytest.raises(DataError, match=f"returned inf for evaluation sample {largest}$"):
        evaluate(runner, request_for(metric=UserMetric(own, "score")))
    assert len(parts_of(runner)) > 2


def test_the_result_is_cached_for_split_and_serial_evaluations(runner, request_for):
    evaluate(runner, request_for())
    before = len(runner.costs)
    evaluate(runner, request_for(), Threads(1))
    evaluate(runner, request_for())
    assert [(cost.stage, cost.cached) for cost in runner.costs[before:]] == [("evaluate", True)] * 2


def test_an_interrupted_evaluation_continues_after_its_finished_parts(runner, request_for):
    class Interrupted(Threads):
        def map(self, function, items, skip_reason):
            super().map(function, items[:3], skip_reason)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(runner, request_for(), Interrupted(2, startup_s=1e-9))
    before = len(parts_of(runner))
    assert before == 1 + 3
    evaluate(runner, request_for())
    assert sum(cost.cached for cost in parts_of(runner)[before:]) == before


def test_a_short_evaluation_is_not_split(runner, request_for):
    evaluate(runner, request_for(), Threads(2))  # to begin takes a second, and all of it less
    assert len(parts_of(runner)) == 1


def test_frameworks_and_large_outputs_are_not_split(runner, request_for, tmp_path):
    request = request_for()
    source = Source(SourceRequest("keras", tmp_path), "keras", request.inputs, request.outputs, (False,))
    assert evaluation._can_split(runner, request)
    assert not evaluation._can_split(runner, replace(request, subject=source))
    assert evaluation._can_split(runner, replace(request, subject=replace(source, framework="tflite")))
    wide = replace(request, outputs=(OutputSpec("y", (1, 2**21), "float32"),))  # 8 MiB a sample
    assert evaluation._can_split(runner, wide)
    assert not evaluation._can_split(runner, replace(wide, metric=UserMetric(tmp_path / "own.py", "score")))
