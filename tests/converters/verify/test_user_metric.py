"""A user's metric: its arguments, the values it may return, and the messages when it fails."""

import sys

import numpy as np
import pytest

from edgekit_converters.data import DataSet
from edgekit_converters.execution import stage_cache as caching
from edgekit_converters.records import Artifact, EvaluateRequest, Evaluation, Source, SourceRequest
from edgekit_converters.verify import metrics, user_metric
from edgekit_runtime.errors import DataError
from edgekit_runtime.format.manifest import InputSpec, OutputSpec, TensorBinding

VECTOR = (InputSpec("x", (1, 4), "float32"),)
OUTPUTS = (OutputSpec("scores", (1, 3), "float32"), OutputSpec("sums", (1,), "float32"))
COUNT = 70  # more than one batch

HITS = """
from neighbour import RIGHT

def hits(outputs, labels):
    assert set(outputs) == {"scores", "sums"}
    assert outputs["scores"].shape == (len(labels), 3) and outputs["sums"].shape == (len(labels),)
    return RIGHT * (outputs["scores"].argmax(axis=1) == labels)

def all_at_once(outputs, labels):
    return float(len(labels))
"""


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    """Evaluate a model that gives its first three inputs as scores, and their sum, by a metric of the user's."""

    class Live:
        def run(self, batch):
            return [batch[0][:, :3], batch[0].sum(axis=1)]

    monkeypatch.setattr(metrics, "open_source", lambda _: Live())
    source = Source(SourceRequest("keras", tmp_path), "keras", VECTOR, OUTPUTS, (False,))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "neighbour", raising=False)
    (tmp_path / "neighbour.py").write_text("RIGHT = 1.0\n")
    np.save(tmp_path / "x.npy", np.eye(4, dtype=np.float32)[np.arange(COUNT) % 3])
    np.save(tmp_path / "labels.npy", np.where(np.arange(COUNT) < 7, 2 - np.arange(COUNT) % 3, np.arange(COUNT) % 3))

    def run(code, function):
        (tmp_path / "mine.py").write_text(code)
        data = DataSet((str(tmp_path / "x.npy"),), str(tmp_path / "labels.npy"), (), COUNT, "", ())
        user_metric.load.cache_clear()
        metric = user_metric.parse_metric(f"{tmp_path / 'mine.py'}:{function}")
        return metrics.evaluate(EvaluateRequest(source, VECTOR, OUTPUTS, data, metric=metric), tmp_path)

    return run


def test_one_number_a_sample_is_averaged_and_one_for_all_is_taken(evaluate, tmp_path):
    files = tuple(sorted((tmp_path / name).resolve() for name in ("mine.py", "neighbour.py")))
    assert evaluate(HITS, "hits") == Evaluation("mine.py:hits", 65 / 70, COUNT, files)
    assert evaluate(HITS, "all_at_once").value == COUNT


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return np.where(outputs['sums'] < 0, 0.5, np.where(np.arange(len(labels)) == 41, np.nan, 1))",
            "nan for .* 41",
        ),
        ("return np.nan if (labels == 0).all() and len(labels) == 1 else np.inf", "returned inf$"),
        ("return [1.0, 2.0]", r"shape \(2,\) for 70 samples; FILE\.py:function, a function"),
        ("return 'good'", "returned str; "),
        ("return None", "returned NoneType; "),
        ("raise KeyError('boxes')", r"mine\.py:4: KeyError: 'boxes'$"),
    ],
)
def test_a_returned_value_that_is_no_score_is_refused(evaluate, body, message):
    with pytest.raises(DataError, match=message):
        evaluate(f"import numpy as np\n\ndef score(outputs, labels):\n    {body}\n", "score")


@pytest.mark.parametrize("failure", ["raise ValueError('no box')", "return float('nan')"])
def test_the_sample_that_makes_it_fail_is_named(evaluate, tmp_path, failure):
    labels = np.zeros(COUNT, np.int64)
    labels[53] = 9
    np.save(tmp_path / "labels.npy", labels)
    code = f"def score(outputs, labels):\n    if (labels > 5).any():\n        {failure}\n    return 1.0\n"
    with pytest.raises(DataError, match=r"\(because of evaluation sample 53\)"):
        evaluate(code, "score")


def test_a_function_that_is_not_there(evaluate, tmp_path):
    with pytest.raises(DataError, match=r"no function 'missing' in it; wanted FILE\.py:function"):
        evaluate(HITS, "missing")
    with pytest.raises(DataError, match="no such file"):
        user_metric.parse_metric(f"{tmp_path}/nobody.py:score")
    with pytest.raises(DataError, match="name the function too"):
        user_metric.parse_metric(str(tmp_path / "mine.py"))


def test_the_cache_key_depends_on_the_file_and_its_imports(evaluate, tmp_path):
    evaluated = evaluate(HITS, "hits")
    cache = caching.Cache(tmp_path / "cache")
    (tmp_path / "entry").mkdir()
    cache.put("key", evaluated, tmp_path / "entry")
    assert cache.get("key") == evaluated
    (tmp_path / "neighbour.py").write_text("RIGHT = 0.5\n")
    assert cache.get("key") is None
    metric = user_metric.parse_metric(f"{tmp_path / 'mine.py'}:hits")
    before = caching.key("evaluate", metric, {})
    (tmp_path / "mine.py").write_text(HITS + "\n")
    assert caching.key("evaluate", metric, {}) != before


def test_an_artifact_is_measured_as_the_source_is(tmp_path):
    """The null engine multiplies by weights: its outputs reach the metric under the source's names."""
    np.save(tmp_path / "w.npy", np.eye(4, dtype=np.float32)[:, :3])
    np.save(tmp_path / "x.npy", np.eye(4, dtype=np.float32))
    (tmp_path / "mine.py").write_text("def total(outputs, labels):\n    return outputs['scores'].sum()\n")
    binding = (TensorBinding(0, "x", "float32"),)
    artifact = Artifact("null", "float32", (tmp_path / "w.npy",), binding, binding)
    data = DataSet((str(tmp_path / "x.npy"),), None, (), 4, "", ())
    metric = user_metric.parse_metric(f"{tmp_path / 'mine.py'}:total")
    request = EvaluateRequest(artifact, VECTOR, OUTPUTS[:1], data, metric=metric)
    assert metrics.evaluate(request, tmp_path).value == 3.0
