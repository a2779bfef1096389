"""What a race tries, in which order, what it drops early, and how it ends. The lane is scripted: it is no toolchain."""

import itertools
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.candidate_search.search import Race, Source
from edgekit.candidate_search.selection import choose
from edgekit.conversion.trial import BROKEN, DROPPED, FAILED, MEASURED, SKIPPED
from edgekit.parallel.executor import Threads
from edgekit.plan.budget import Budget
from edgekit_converters.records import Artifact, Comparison, Evaluation, Latency, Parity
from edgekit_runtime.errors import CalibrationError, DiskFull

COUNT, PART = 2000, 400
SCHEMES = ("int8-static", "float16", "int8-dynamic", "int8-weights", "float32", "int16x8-static")
HARM = tuple("abcdefgh")
NUMBERS = itertools.count()


class EngineRunner:
    """An engine in which a recipe loses what ``lost`` says of it."""

    engine, schemes = "litert", SCHEMES

    def __init__(self, folder: Path, lost):
        self.folder, self.lost, self.whole, self.ranked = folder, lost, [], []
        self.lost_of, self.recipes = {}, {}

    def make(self, recipe):
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

    def evaluate(self, artifact, *, part):
        if not part:
            self.whole.append(self.recipes[artifact.files[0]])
        return scored(self.folder, PART if part else COUNT, self.lost_of[artifact.files[0]])

    def rank(self, artifacts):
        self.ranked.append([self.recipes[one.files[0]] for one in artifacts])
        slow = {"float32": 4.0, "float16": 4.0, "int16x8-static": 3.0}
        return [
            Latency(slow.get(one.scheme, 1.0 + 0.1 * len(self.recipes[one.files[0]].rules)), 1.0, 9)
            for one in artifacts
        ]

    def harm(self):
        return HARM


def scored(folder, count, lost):
    """An evaluation in which every tenth sample is wrong, and a share of the others besides."""
    scores = np.ones(count)
    scores[::10] = 0
    scores[1 : 1 + round(lost * count)] = 0
    path = folder / f"scores-{next(NUMBERS)}.npy"
    np.save(path, scores)
    return Evaluation("accuracy", float(scores.mean()), count, scores=path)


@pytest.fixture
def race(tmp_path):
    """Race candidates that lose what a function says of their recipes."""

    def run(lost, stop=lambda: "", max_drop=0.01, jobs=1):
        lane = EngineRunner(tmp_path, lost)
        source = Source(scored(tmp_path, COUNT, 0.0), scored(tmp_path, PART, 0.0))
        one = Race(lane, source, Budget(max_drop), stop, Threads(jobs))
        one.run()
        one.rank([entry.trial for entry in one.entries if entry.trial.state == MEASURED])
        return one

    return run


def by_state(race):
    states = {}
    for entry in race.entries:
        states.setdefault(entry.trial.state, []).append(entry.trial)
    return states


def test_what_fits_ends_the_search_and_is_taken(race):
    done = race(lambda recipe: 0.0)
    states = by_state(done)
    assert [trial.recipe.corrections for trial in states[FAILED]] == [("bias",)]
    assert {trial.recipe.corrections for trial in states[BROKEN]} == {("equalize",)}
    assert not any(trial.recipe.rules for trial in states[MEASURED])
    assert choose([entry.trial for entry in done.entries], done.budget).recipe.scheme == "int8-static"


def test_what_loses_far_too_much_is_dropped_on_a_part(race):
    done = race(lambda recipe: 0.2 if recipe.scheme == "int8-dynamic" else 0.0)
    (dropped,) = by_state(done)[DROPPED]
    assert dropped.recipe.scheme == "int8-dynamic"
    assert dropped.samples == PART
    assert not any(recipe.scheme == "int8-dynamic" for recipe in done.lane.whole)


def test_when_int8_does_not_fit_its_worst_layers_stay_float_until_it_does(race):
    def lost(recipe):
        kept = len(recipe.rules[0].layers) if recipe.rules else 0
        return max(0.0, 0.06 - 0.02 * kept) if recipe.scheme == "int8-static" else 0.0

    done = race(lost)
    kept = [entry.trial.recipe.rules[0].layers for entry in done.entries if entry.trial.recipe.rules]
    assert kept == [HARM[:1], HARM[:2], HARM[:4]]
    taken = choose([entry.trial for entry in done.entries], replace(done.budget, max_latency_ms=1.2))
    assert taken.recipe.scheme.startswith("int8")


def test_when_the_worst_layers_are_not_known_that_is_said_and_the_race_goes_on(race, monkeypatch):
    def unknown(_):
        raise CalibrationError("no samples to run", stage="sense")

    monkeypatch.setattr(EngineRunner, "harm", unknown)
    done = race(lambda recipe: 0.3 if recipe.scheme.startswith("int8") else 0.0)
    assert any("is not known: " in entry.trial.reason for entry in done.entries)
    assert done.entries[-1].trial.recipe.scheme == "int16x8-static"


@pytest.mark.parametrize("method", ["make", "harm"])
def test_a_full_disk_ends_the_race(race, monkeypatch, method):
    def full(*_):
        raise DiskFull("no room", stage="quantize")

    monkeypatch.setattr(EngineRunner, method, full)
    with pytest.raises(DiskFull, match="no room"):
        race(lambda recipe: 0.3 if recipe.scheme.startswith("int8") else 0.0)


def test_sixteen_bits_are_tried_when_eight_do_not_do(race):
    done = race(lambda recipe: 0.3 if recipe.scheme.startswith("int8") else 0.0)
    assert done.entries[-1].trial.recipe.scheme == "int16x8-static"
    assert done.entries[-1].trial.state == MEASURED


def test_when_the_time_is_up_the_rest_is_skipped_and_what_was_found_stays(race):
    left = iter([""] * 4)
    done = race(lambda recipe: 0.0, stop=lambda: next(left, "the time was over"))
    states = by_state(done)
    assert len(states[MEASURED]) == 1 + 4  # float32 is always measured
    assert {trial.reason for trial in states[SKIPPED]} == {"the time was over"}


def test_one_of_those_with_the_same_kernels_is_timed(race):
    done = race(lambda recipe: 0.0)
    (ranked,) = done.lane.ranked
    assert [recipe.scheme for recipe in ranked] == ["float32", "int8-static", "float16", "int8-dynamic", "int8-weights"]
    alike = [entry.trial for entry in done.entries if entry.trial.recipe.scheme == "int8-static"]
    assert {trial.latency_ms for trial in alike if trial.state == MEASURED} == {1.0}


def test_a_second_turn_replaces_the_times_of_all_with_the_same_kernels(race):
    done = race(lambda recipe: 0.0)
    done.lane.rank = lambda artifacts: [Latency(7.0, 7.0, 9) for _ in artifacts]
    done.rank([entry.trial for entry in done.entries if entry.trial.recipe.statistics == "mse"][:1])
    times_ms = {entry.trial.latency_ms for entry in done.entries if entry.trial.recipe.scheme == "int8-static"}
    assert times_ms == {None, 7.0}
    assert {entry.trial.latency_ms for entry in done.entries if entry.trial.recipe.scheme == "float32"} == {4.0}


def test_where_parts_say_nothing_of_the_whole_all_candidates_meet_all_data(tmp_path):
    lane = EngineRunner(tmp_path, lambda recipe: 0.2 if recipe.scheme == "int8-dynamic" else 0.0)
    done = Race(lane, Source(scored(tmp_path, COUNT, 0.0), None), Budget(0.01), lambda: "")
    done.run()
    assert DROPPED not in by_state(done)
    assert any(recipe.scheme == "int8-dynamic" for recipe in lane.whole)


def test_how_many_are_tried_at_once_changes_nothing(race):
    def lost(recipe):
        kept = len(recipe.rules[0].layers) if recipe.rules else 0
        return max(0.0, 0.06 - 0.02 * kept) if recipe.scheme == "int8-static" else 0.0

    one, three = race(lost), race(lost, jobs=3)
    assert [replace(entry.trial, seconds=0) for entry in three.entries] == [
        replace(entry.trial, seconds=0) for entry in one.entries
    ]
    assert [len(entry.trial.recipe.rules[0].layers) for entry in three.entries if entry.trial.recipe.rules] == [1, 2, 4]


def test_what_was_tried_beside_the_first_that_fits_does_not_count(race):
    def lost(recipe):
        return 0.06 if recipe.scheme == "int8-static" and not recipe.rules else 0.0

    done = race(lost, jobs=3)
    assert [len(entry.trial.recipe.rules[0].layers) for entry in done.entries if entry.trial.recipe.rules] == [1]


def test_what_goes_to_another_process_is_enough_to_try_one_there(race):
    done = race(lambda recipe: 0.0)
    done.lane.lost = None  # a function of the test's own, which stays here
    there = pickle.loads(pickle.dumps(done))
    assert there.entries == []
    assert (there.source, there.budget) == (done.source, done.budget)
    assert there.lane.recipes == done.lane.recipes
