"""Select the best trial within the budgets, and explain the choice; pure functions of the measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgekit.conversion.trial import BROKEN, DROPPED, FAILED, MEASURED, Trial, complexity
from edgekit.plan.budget import Budget
from edgekit_converters.recipe.label import recipe_label

ALIKE = 1.03  # latencies within this ratio count as equal: the noise of a machine that also does other work
SURE = 2.0  # standard errors after which a subset of the data is enough to drop a candidate


def exceeded_limits(trial: Trial, budget: Budget) -> dict[str, float]:
    """Return by how much a measured trial exceeds each limit, relative to it or in the metric; empty when it fits."""
    over = {}
    if trial.drop is not None and not trial.drop <= budget.max_drop:  # NaN is within no limit
        over["drop"] = math.inf if math.isnan(trial.drop) else trial.drop - budget.max_drop
    most_ms, most_mib = budget.max_latency_ms, budget.max_size_mib
    if most_ms is not None and trial.latency_ms is not None and trial.latency_ms > most_ms:
        over["latency"] = trial.latency_ms / most_ms - 1
    size_mib = (trial.size_bytes or 0) / 2**20
    if most_mib is not None and size_mib > most_mib:
        over["size"] = size_mib / most_mib - 1
    return over


def loses_too_much(source: np.ndarray, candidate: np.ndarray, max_drop: float, *, higher_is_better: bool) -> bool:
    """Tell from a subset of the samples that a candidate loses more than allowed.

    The scores are compared sample by sample, so samples that both get wrong add no noise. It is true when the mean
    loss minus ``SURE`` standard errors is above the limit.

    Args:
        source: the source's score of each sample, (n,).
        candidate: the candidate's score of each sample, (n,).
        max_drop: limit of the mean loss.
        higher_is_better: of the metric.
    """
    loss = (source - candidate) if higher_is_better else (candidate - source)
    return bool(loss.mean() - SURE * standard_error(source, candidate) > max_drop)


def standard_error(source: np.ndarray, candidate: np.ndarray) -> float:
    """Return the standard error of the mean difference of two score arrays of the same samples, (n,) each."""
    return float((source - candidate).std(ddof=1) / math.sqrt(len(source))) if len(source) > 1 else math.inf


def choose(trials: Sequence[Trial], budget: Budget) -> Trial | None:
    """Return the best measured trial within the budgets; None if none fits.

    For the objective "latency" it is one of the fastest, so never an integer variant that is slower than float; for
    "size" the smallest; for "accuracy" one of those with the smallest drop. Trials that are equal within the noise
    are then compared by the other measures, and last the simplest recipe is taken: the best of many candidates on
    one data set is often the best by chance.
    """
    fitting = [trial for trial in trials if trial.state == MEASURED and not exceeded_limits(trial, budget)]
    if not fitting:
        return None
    for narrow in ORDER[budget.objective]:
        fitting = narrow(fitting)
    return min(fitting, key=lambda trial: (complexity(trial.recipe), _drop(trial), trial.size_bytes or 0))


def _fastest(trials: Sequence[Trial]) -> list[Trial]:
    best_ms = min(map(_latency, trials))
    return [trial for trial in trials if _latency(trial) <= ALIKE * best_ms]


def _smallest(trials: Sequence[Trial]) -> list[Trial]:
    least_bytes = min(trial.size_bytes or 0 for trial in trials)
    return [trial for trial in trials if (trial.size_bytes or 0) == least_bytes]


def _most_accurate(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials within one standard error of the best (the 1-SE rule of CART, Breiman et al., 1984)."""
    best = min(trials, key=_drop)
    return [trial for trial in trials if _drop(trial) <= _drop(best) + (best.error or 0.0)]


ORDER = {
    "latency": (_fastest, _most_accurate),
    "size": (_smallest, _most_accurate, _fastest),
    "accuracy": (_most_accurate, _fastest, _smallest),
}


def pareto(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Return the measured trials that no other trial beats in drop, latency and size at once."""
    measured = [trial for trial in trials if trial.state == MEASURED]
    keys: dict[int, tuple[float, ...]] = {
        id(trial): (_drop(trial), _latency(trial), float(trial.size_bytes or 0)) for trial in measured
    }

    def dominated(trial: Trial) -> bool:
        own = keys[id(trial)]
        return any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other in keys.values())

    return tuple(trial for trial in measured if not dominated(trial))


def closest(trials: Sequence[Trial], budget: Budget, count: int = 3) -> tuple[Trial, ...]:
    """Return the trials that exceed the budgets by the least, the closest first."""
    known = [trial for trial in trials if trial.drop is not None]
    return tuple(sorted(known, key=lambda trial: sum(exceeded_limits(trial, budget).values()))[:count])


def finalists(trials: Sequence[Trial], budget: Budget) -> tuple[Trial, ...]:
    """Return the trials to time once more: all within the budgets, since times of two runs are not comparable."""
    return tuple(trial for trial in trials if trial.state == MEASURED and not exceeded_limits(trial, budget))


def explain(chosen: Trial, trials: Sequence[Trial], budget: Budget, metric: str) -> str:
    """Return one paragraph: the selected trial, its measurements, and why the others were not selected.

    Args:
        chosen: the selected trial.
        trials: all trials of the same engine.
        budget: its limits.
        metric: of the drops.
    """
    others = [trial for trial in trials if trial is not chosen]
    timed = [trial for trial in others if trial.state == MEASURED]
    facts = [
        f"{chosen.engine}: selected {recipe_label(chosen.recipe)}: {drop_text(_drop(chosen), metric)} "
        f"(limit {drop_with_unit(budget.max_drop, metric)}), {_latency(chosen):.3f} ms per call on this machine, "
        f"{(chosen.size_bytes or 0) / 1024:.0f} KiB"
    ]
    float32 = next((trial for trial in timed if trial.recipe.scheme == "float32"), None)
    if float32 is not None:
        facts.append(f"float32 takes {_latency(float32) / _latency(chosen):.2f} times as long")
    over = [trial for trial in timed if "drop" in exceeded_limits(trial, budget)]
    over += [trial for trial in others if trial.state == DROPPED]
    if over:
        worst = drop_with_unit(max(map(_drop, over)), metric)
        facts.append(f"{len(over)} of {len(trials)} candidates lose too much, up to {worst}")
    facts += _fitting_but_worse(
        chosen, [trial for trial in timed if not exceeded_limits(trial, budget)], budget, metric
    )
    for state, why in ((BROKEN, "failed the parity check"), (FAILED, "could not be converted")):
        count = sum(trial.state == state for trial in others)
        facts += [f"{count} {why}"] if count else []
    return "; ".join(facts) + "."


def _fitting_but_worse(chosen: Trial, fitting: Sequence[Trial], budget: Budget, metric: str) -> list[str]:
    """Say why trials within the budgets were not selected."""
    facts = []
    slower = [trial for trial in fitting if _latency(trial) > ALIKE * _latency(chosen)]
    if slower and budget.objective == "latency":
        times = min(map(_latency, slower)) / _latency(chosen)
        facts.append(f"{len(slower)} within the limits are slower, at least {times:.2f} times as long")
    larger = [trial for trial in fitting if (trial.size_bytes or 0) > (chosen.size_bytes or 0)]
    if larger and budget.objective == "size":
        facts.append(f"{len(larger)} within the limits are larger")
    by_chance = [trial for trial in fitting if _by_chance(chosen, trial)]
    if by_chance:
        best = drop_with_unit(_drop(chosen) - min(map(_drop, by_chance)), metric)
        facts.append(f"{len(by_chance)} are better by up to {best}, within one standard error, but less simple")
    return facts


def trial_line(trial: Trial, metric: str) -> str:
    """Return a trial and its measurements in one line."""
    facts = [drop_text(_drop(trial), metric)]
    facts += [f"{trial.latency_ms:.4g} ms"] if trial.latency_ms is not None else []
    facts += [f"{trial.size_bytes / 2**20:.3g} MiB"] if trial.size_bytes is not None else []
    return f"{trial.name}: {', '.join(facts)}"


def drop_text(drop: float, metric: str) -> str:
    """Return a drop in words."""
    if drop == 0:
        return "loses nothing"
    return f"loses {drop_with_unit(drop, metric)}" if drop > 0 else f"gains {drop_with_unit(-drop, metric)}"


def drop_with_unit(drop: float, metric: str) -> str:
    """Return a drop with its unit."""
    return f"{100 * drop:.2f} points" if metric in ("accuracy", "agreement") else f"{drop:.4g} of {metric}"


def _by_chance(chosen: Trial, other: Trial) -> bool:
    """Tell whether another trial has a smaller drop within its standard error, at the same speed but less simple."""
    gain = _drop(chosen) - _drop(other)
    alike = _latency(other) <= ALIKE * _latency(chosen) and complexity(other.recipe) > complexity(chosen.recipe)
    return alike and 0 < gain <= (other.error or 0.0)


def _drop(trial: Trial) -> float:
    return math.inf if trial.drop is None else trial.drop


def _latency(trial: Trial) -> float:
    return math.inf if trial.latency_ms is None else trial.latency_ms
