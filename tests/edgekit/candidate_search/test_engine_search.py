"""Which candidates are tried and in which order, which are dropped early, how a search ends; no toolchain."""

import itertools
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.candidate_search.engine_search import CandidateSearch, SourceEvaluations
from edgekit.candidate_search.selection import choose
from edgekit.conversion.trial import BROKEN, DROPPED, FAILED, MEASURED, SKIPPED
from edgekit.parallel.executor import Threads
from edgekit.plan.budget import Budget
from edgekit_converters.records import Artifact, Comparison, Evaluation, Latency, Parity
from edgekit_runtime.errors import CalibrationError, DiskFull

COUNT, SUBSET = 2000, 400
SCHEMES = ("int8-static", "float16", "int8-dynamic", "int8-weights", "float32", "int16x8-static")
LAYERS = tuple("abcdefgh")
NUMBERS = itertools.count()


class ScriptedRunner:
    """An engine in which a recipe loses what ``lost`` says of it."""

    engine, schemes = "litert", SCHEMES

    def __init__(self, folder: Path, lost):
        self.folder, self.lost, self.fully_evaluated, self.ranked = folder, lost, [], []
        self.lost_of, self.recipes = {}, {}

    def quantize(self, recipe):
        if recipe.corrections == ("bias",):
            raise CalibrationError("no ranges", stage="quantize")
        path = self.folder / f"{abs(hash(recipe))}.tflite"
        path.write_bytes(bytes(1000))
        self.lost_of[path] = self.lost(recipe)
        self.recipes[path] = recipe
        return Artifact("litert", recipe.scheme, (path,), (), ())

    def compare(self, artifact):
        broken = self.recipes[artifact.files[0]].corrections == ("equalize",)
        return Comparison((Parity("y", 0.1, 1.0 if broken else 70.0, 1.0),), ())

    def evaluate(self, artifact, *, subset):
        if not subset:
            self.fully_evaluated.append(self.recipes[artifact.files[0]])
        return scored(self.folder, SUBSET if subset else COUNT, self.lost_of[artifact.files[0]])

    def time_artifacts(self, artifacts):
        self.ranked.append([self.recipes[one.files[0]] for one in artifacts])
        slow = {"float32": 4.0, "float16": 4.0, "int16x8-static": 3.0}
        return [
            Latency(slow.get(one.scheme, 1.0 + 0.1 * len(self.recipes[one.files[0]].rules)), 1.0, 9)
            for one in artifacts
        ]

    def layers_by_sensitivity(self):
        return LAYERS


def scored(folder, count, lost):
    """An evaluation in which every tenth sample is wrong, and a share of the others besides."""
    scores = np.ones(count)
    scores[::10] = 0
    scores[1 : 1 + round(lost * count)] = 0
    path = folder / f"scores-{next(NUMBERS)}.npy"
    np.save(path, scores)
    return Evaluation("accuracy", float(scores.mean()), count, scores=path)


@pytest.fixture
def search(tmp_path):
    """Search candidates; a function gives the loss of each recipe."""

    def run(lost, stop_reason=lambda: "", max_drop=0.01, jobs=1):
        runner = ScriptedRunner(tmp_path, lost)
        source = SourceEvaluations(scored(tmp_path, COUNT, 0.0), scored(tmp_path, SUBSET, 0.0))
        started = CandidateSearch(runner, source, Budget(max_drop), stop_reason, Threads(jobs))
        started.run()
        started.time_trials([result.trial for result in started.results if result.trial.state == MEASURED])
        return started

    return run


def by_state(search):
    states = {}
    for result in search.results:
        states.setdefault(result.trial.state, []).append(result.trial)
    return states


def test_a_fitting_candidate_ends_the_search_and_is_selected(search):
    done = search(lambda recipe: 0.0)
    states = by_state(done)
    assert [trial.recipe.corrections for trial in states[FAILED]] == [("bias",)]
    assert {trial.recipe.corrections for trial in states[BROKEN]} == {("equalize",)}
    assert not any(trial.recipe.rules for trial in states[MEASURED])
    assert choose([result.trial for result in done.results], done.budget).recipe.scheme == "int8-static"


def test_a_bad_candidate_is_dropped_on_the_subset(search):
    done = search(lambda recipe: 0.2 if recipe.scheme == "int8-dynamic" else 0.0)
    (dropped,) = by_state(done)[DROPPED]
    assert dropped.recipe.scheme == "int8-dynamic"
    assert dropped.samples == SUBSET
    assert not any(recipe.scheme == "int8-dynamic" for recipe in done.runner.fully_evaluated)


def test_mixed_precision_adds_float_layers_until_a_candidate_fits(search):
    def lost(recipe):
        kept = len(recipe.rules[0].layers) if recipe.rules else 0
        return max(0.0, 0.06 - 0.02 * kept) if recipe.scheme == "int8-static" else 0.0

    done = search(lost)
    kept = [result.trial.recipe.rules[0].layers for result in done.results if result.trial.recipe.rules]
    assert kept == [LAYERS[:1], LAYERS[:2], LAYERS[:4]]
    selected = choose([result.trial for result in done.results], replace(done.budget, max_latency_ms=1.2))
    assert selected.recipe.scheme.startswith("int8")


def test_a_failed_sensitivity_is_reported_and_the_search_continues(search, monkeypatch):
    def unknown(_):
        raise CalibrationError("no samples to run", stage="sensitivity")

    monkeypatch.setattr(ScriptedRunner, "layers_by_sensitivity", unknown)
    done = search(lambda recipe: 0.3 if recipe.scheme.startswith("int8") else 0.0)
    assert any("cannot be measured: " in result.trial.reason for result in done.results)
    assert done.results[-1].trial.recipe.scheme == "int16x8-static"


@pytest.mark.parametrize("method", ["quantize", "layers_by_sensitivity"])
def test_a_full_disk_ends_the_search(search, monkeypatch, method):
    def full(*_):
        raise DiskFull("no room", stage="quantize")

    monkeypatch.setattr(ScriptedRunner, method, full)
    with pytest.raises(DiskFull, match="no room"):
        search(lambda recipe: 0.3 if recipe.scheme.startswith("int8") else 0.0)


def test_int16_activations_are_tried_when_int8_does_not_fit(search):
    done = search(lambda recipe: 0.3 if recipe.scheme.startswith("int8") else 0.0)
    assert done.results[-1].trial.recipe.scheme == "int16x8-static"
    assert done.results[-1].trial.state == MEASURED


def test_after_the_time_limit_the_other_candidates_are_skipped(search):
    left = iter([""] * 4)
    done = search(lambda recipe: 0.0, stop_reason=lambda: next(left, "the time was over"))
    states = by_state(done)
    assert len(states[MEASURED]) == 1 + 4  # float32 is always measured
    assert {trial.reason for trial in states[SKIPPED]} == {"the time was over"}


def test_candidates_with_the_same_kernels_share_a_measurement(search):
    done = search(lambda recipe: 0.0)
    (ranked,) = done.runner.ranked
    assert [recipe.scheme for recipe in ranked] == ["float32", "int8-static", "float16", "int8-dynamic", "int8-weights"]
    alike = [result.trial for result in done.results if result.trial.recipe.scheme == "int8-static"]
    assert {trial.latency_ms for trial in alike if trial.state == MEASURED} == {1.0}


def test_a_second_measurement_replaces_the_first_for_the_same_kernels(search):
    done = search(lambda recipe: 0.0)
    done.runner.time_artifacts = lambda artifacts: [Latency(7.0, 7.0, 9) for _ in artifacts]
    done.time_trials([result.trial for result in done.results if result.trial.recipe.statistics == "mse"][:1])
    times_ms = {result.trial.latency_ms for result in done.results if result.trial.recipe.scheme == "int8-static"}
    assert times_ms == {None, 7.0}
    assert {result.trial.latency_ms for result in done.results if result.trial.recipe.scheme == "float32"} == {4.0}


def test_without_scores_per_sample_all_candidates_use_all_data(tmp_path):
    runner = ScriptedRunner(tmp_path, lambda recipe: 0.2 if recipe.scheme == "int8-dynamic" else 0.0)
    done = CandidateSearch(runner, SourceEvaluations(scored(tmp_path, COUNT, 0.0), None), Budget(0.01), lambda: "")
    done.run()
    assert DROPPED not in by_state(done)
    assert any(recipe.scheme == "int8-dynamic" for recipe in runner.fully_evaluated)


def test_the_number_of_jobs_does_not_change_the_results(search):
    def lost(recipe):
        kept = len(recipe.rules[0].layers) if recipe.rules else 0
        return max(0.0, 0.06 - 0.02 * kept) if recipe.scheme == "int8-static" else 0.0

    one, three = search(lost), search(lost, jobs=3)
    assert [replace(result.trial, seconds=0) for result in three.results] == [
        replace(result.trial, seconds=0) for result in one.results
    ]
    rules = [result.trial.recipe.rules for result in three.results]
    assert [len(rule.layers) for (rule,) in filter(None, rules)] == [1, 2, 4]


def test_candidates_tried_together_with_the_first_fitting_one_are_ignored(search):
    def lost(recipe):
        return 0.06 if recipe.scheme == "int8-static" and not recipe.rules else 0.0

    done = search(lost, jobs=3)
    assert [len(result.trial.recipe.rules[0].layers) for result in done.results if result.trial.recipe.rules] == [1]


def test_a_pickled_search_can_try_a_candidate(search):
    done = search(lambda recipe: 0.0)
    done.runner.lost = None  # a function of the test's own, which stays here
    there = pickle.loads(pickle.dumps(done))
    assert there.results == []
    assert (there.source, there.budget) == (done.source, done.budget)
    assert there.runner.recipes == done.runner.recipes
