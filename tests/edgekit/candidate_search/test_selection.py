"""The best within the budgets is taken, a bad candidate is dropped early, and the choice is explained."""

from dataclasses import replace

import numpy as np
import pytest

from edgekit.candidate_search.selection import (
    choose,
    closest,
    explain,
    finalists,
    loses_too_much,
    pareto,
    standard_error,
)
from edgekit.conversion.trial import BROKEN, DROPPED, FAILED, MEASURED, Trial
from edgekit.plan.budget import Budget
from edgekit_converters.recipe.label import recipe_label
from edgekit_converters.recipe.recipe import Recipe, Rule

BUDGET = Budget(max_drop=0.01)


def trial(scheme, drop, latency_ms, size_bytes=100_000, state=MEASURED, **recipe):
    return Trial("litert", Recipe(scheme, **recipe), state, "", 2000, 0.9 - (drop or 0), drop, latency_ms, size_bytes)


FLOAT = trial("float32", 0.0, 2.0, 400_000)
PLAIN = trial("int8-static", 0.05, 1.0)
PARTIAL = trial("int8-static", 0.008, 1.3, 130_000, rules=(Rule("float32", layers=("a", "b")),))
HALF = trial("float16", 0.0001, 2.1, 200_000)


@pytest.mark.parametrize(
    ("budget", "taken"),
    [
        (BUDGET, PARTIAL),
        (replace(BUDGET, max_drop=0.06), PLAIN),
        (replace(BUDGET, max_drop=0.001), FLOAT),
        (replace(BUDGET, objective="size"), PARTIAL),
        (replace(BUDGET, objective="accuracy"), FLOAT),
        (replace(BUDGET, objective="accuracy", max_size_mib=0.25), HALF),
        (replace(BUDGET, max_latency_ms=1.2), None),
        (replace(BUDGET, max_latency_ms=1.2, max_drop=0.06), PLAIN),
    ],
)
def test_the_best_within_the_budget_is_selected(budget, taken):
    assert choose([FLOAT, PLAIN, PARTIAL, HALF], budget) is taken


def test_a_nan_drop_is_within_no_limit():
    assert choose([trial("int8-static", float("nan"), 0.5), FLOAT], BUDGET) is FLOAT


def test_size_matters_as_objective_or_limit():
    wanted = [BUDGET, replace(BUDGET, objective="size"), replace(BUDGET, max_size_mib=1.0)]
    assert [budget.size_matters for budget in wanted] == [False, True, True]


def test_an_integer_variant_slower_than_float_is_not_selected_for_latency():
    slow = trial("int8-static", 0.0, 2.5)
    assert choose([FLOAT, slow], BUDGET) is FLOAT
    assert choose([FLOAT, slow], replace(BUDGET, objective="size")) is slow


def test_among_equally_fast_trials_the_smallest_drop_is_selected():
    alike = [trial("int8-static", drop, 1.0 + 0.01 * place) for place, drop in enumerate((0.004, 0.001, 0.003))]
    assert choose([FLOAT, *alike], BUDGET) is alike[1]


@pytest.mark.parametrize("objective", ["latency", "size", "accuracy"])
def test_a_simpler_trial_within_one_standard_error_is_selected(objective):
    plain = replace(PLAIN, drop=0.004, error=0.002)
    lucky = replace(plain, drop=0.0025, recipe=Recipe("int8-static", corrections=("equalize", "bias")))
    better = replace(lucky, drop=0.001, recipe=Recipe("int8-static", statistics="mse", corrections=("bias",)))
    wish = replace(BUDGET, objective=objective)
    assert choose([lucky, plain], wish) is plain
    assert choose([lucky, replace(plain, drop=0.005)], wish) is lucky
    assert choose([lucky, plain, better], wish) is better  # plain is beyond its standard error, and it is simpler
    said = explain(plain, [lucky, plain], BUDGET, "accuracy")
    assert "1 are better by up to 0.15 points, within one standard error, but less simple" in said
    assert "standard error" not in explain(better, [lucky, plain, better], BUDGET, "accuracy")


def test_the_standard_error_is_that_of_the_differences():
    source, candidate = np.ones(400), np.ones(400)
    candidate[:4] = 0
    assert standard_error(source, candidate) == pytest.approx(np.sqrt(0.01 * 0.99 / 399))
    assert standard_error(source, source) == 0


def test_only_measured_trials_are_selected():
    assert choose([replace(PLAIN, state=DROPPED, drop=0.0), trial("float32", 0.0, None, state=FAILED)], BUDGET) is None


def test_a_dominated_trial_is_not_in_the_pareto_set():
    worse = trial("int8-weights", 0.009, 1.9, 150_000)
    assert pareto([FLOAT, PLAIN, PARTIAL, HALF, worse]) == (FLOAT, PLAIN, PARTIAL, HALF)


def test_the_closest_trial_is_first():
    assert closest([PLAIN, FLOAT, PARTIAL], replace(BUDGET, max_latency_ms=1.2)) == (PLAIN, PARTIAL, FLOAT)


def test_finalists_are_all_trials_within_the_budget():
    far = trial("int8-weights", 0.0, 3.0)
    broken = trial("int8-dynamic", None, None, state=BROKEN, statistics="mse")
    assert finalists([FLOAT, PARTIAL, far, broken, PLAIN], BUDGET) == (FLOAT, PARTIAL, far)


def test_the_explanation_counts_broken_and_failed_trials():
    broken = replace(PLAIN, state=BROKEN, drop=None, latency_ms=None)
    failed = replace(HALF, state=FAILED, drop=None, latency_ms=None)
    said = explain(PARTIAL, [FLOAT, broken, PARTIAL, failed], replace(BUDGET, objective="size"), "accuracy")
    assert said.endswith("; 1 within the limits are larger; 1 failed the parity check; 1 could not be converted.")


@pytest.mark.parametrize(("lost", "known"), [(0, False), (2, False), (60, True)])
def test_a_subset_of_the_samples_drops_a_bad_candidate(lost, known):
    source = np.ones(500)
    source[:100] = 0  # what the source gets wrong itself says nothing
    candidate = source.copy()
    candidate[100 : 100 + lost] = 0
    assert loses_too_much(source, candidate, 0.01, higher_is_better=True) is known
    assert loses_too_much(1 - source, 1 - candidate, 0.01, higher_is_better=False) is known


def test_a_loss_within_the_noise_does_not_drop_a_candidate():
    generator = np.random.default_rng(0)
    source, candidate = (generator.random((2, 200)) < 0.7).astype(float)  # both right as often
    assert not loses_too_much(source, candidate - 0.02, 0.01, higher_is_better=True)


def test_the_choice_is_explained():
    said = explain(PARTIAL, [FLOAT, PLAIN, PARTIAL, HALF], BUDGET, "accuracy")
    assert said == (
        "litert: selected int8-static, 2 layers float32: loses 0.80 points (limit 1.00 points), "
        "1.300 ms per call on this machine, 127 KiB; float32 takes 1.54 times as long; "
        "1 of 4 candidates lose too much, up to 5.00 points; "
        "2 within the limits are slower, at least 1.54 times as long."
    )


def test_recipe_labels():
    assert recipe_label(Recipe("int8-static", statistics="mse", corrections=("equalize", "bias"))) == (
        "int8-static mse equalize+bias"
    )
