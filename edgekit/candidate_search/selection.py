"""Which of the trials to take: the best within the budgets, and why; pure functions of what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgekit.conversion.trial import BROKEN, DROPPED, FAILED, MEASURED, Trial, complexity
from edgekit.plan.budget import Budget

ALIKE = 1.03  # latencies nearer than this are one: the noise of a machine that does other things, too
SURE = 2.0  # standard errors: when a part of the data is enough to know that a candidate loses too much


def misses(trial: Trial, budget: Budget) -> dict[str, float]:
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


def hopeless(source: np.ndarray, candidate: np.ndarray, max_drop: float, *, higher_is_better: bool) -> bool:
    """Tell from the scores of a part of the samples that a candidate loses more than is allowed.

    The difference is taken sample by sample, so that what both get wrong does not blur it: it is hopeless when the
    mean loss less ``SURE`` standard errors is above the limit.

    Args:
        source: what the metric gives the source, a sample, (n,).
        candidate: likewise the candidate, (n,).
        max_drop: the limit of the mean.
        higher_is_better: of the metric.
    """
    loss = (source - candidate) if higher_is_better else (candidate - source)
    return bool(loss.mean() - SURE * standard_error(source, candidate) > max_drop)


def standard_error(source: np.ndarray, candidate: np.ndarray) -> float:
    """Standard error of the mean difference of two sets of scores of the same samples, (n,) each."""
    return float((source - candidate).std(ddof=1) / math.sqrt(len(source))) if len(source) > 1 else math.inf


def choose(trials: Sequence[Trial], budget: Budget) -> Trial | None:
    """The best measured trial within the budgets; None when none fits.

    For latency it is one of the fastest, so never an integer variant that is slower than float; for size the
    smallest; for accuracy one of those that lose least. What is alike within the noise is narrowed by the others in
    turn, and of the rest the simplest recipe is taken: the best of many on one set is best by chance.
    """
    fitting = [trial for trial in trials if trial.state == MEASURED and not misses(trial, budget)]
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
    """Those within one standard error of the best, the rule by which CART prunes (Breiman et al., 1984)."""
    best = min(trials, key=_drop)
    return [trial for trial in trials if _drop(trial) <= _drop(best) + (best.error or 0.0)]


ORDER = {
    "latency": (_fastest, _most_accurate),
    "size": (_smallest, _most_accurate, _fastest),
    "accuracy": (_most_accurate, _fastest, _smallest),
}


def pareto(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Those measured trials that no other beats in loss, latency and size at once."""
    measured = [trial for trial in trials if trial.state == MEASURED]
    keys: dict[int, tuple[float, ...]] = {
        id(trial): (_drop(trial), _latency(trial), float(trial.size_bytes or 0)) for trial in measured
    }

    def beaten(trial: Trial) -> bool:
        own = keys[id(trial)]
        return any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other in keys.values())

    return tuple(trial for trial in measured if not beaten(trial))


def closest(trials: Sequence[Trial], budget: Budget, count: int = 3) -> tuple[Trial, ...]:
    """The measured or dropped trials that miss the budgets by least, the nearest first."""
    known = [trial for trial in trials if trial.drop is not None]
    return tuple(sorted(known, key=lambda trial: sum(misses(trial, budget).values()))[:count])


def finalists(trials: Sequence[Trial], budget: Budget) -> tuple[Trial, ...]:
    """Those worth timing a second time: all that may be chosen, since times of two turns do not compare."""
    return tuple(trial for trial in trials if trial.state == MEASURED and not misses(trial, budget))


def explain(chosen: Trial, trials: Sequence[Trial], budget: Budget, metric: str) -> str:
    """One paragraph: what was taken, what it was held against, and why not the others.

    Args:
        chosen: the trial taken.
        trials: all of the same engine.
        budget: what it had to keep to.
        metric: what drops are measured in.
    """
    others = [trial for trial in trials if trial is not chosen]
    timed = [trial for trial in others if trial.state == MEASURED]
    limit = amount(budget.max_drop, metric)
    said = [
        f"{chosen.engine}: took {_told(chosen)}: it {_loses(_drop(chosen), metric)} where {limit} may be lost, takes "
        f"{_latency(chosen):.3f} ms a call here and {(chosen.size_bytes or 0) / 1024:.0f} KiB"
    ]
    float32 = next((trial for trial in timed if trial.recipe.scheme == "float32"), None)
    if float32 is not None:
        said.append(f"float32 takes {_latency(float32) / _latency(chosen):.2f} times as long")
    over = [trial for trial in timed if "drop" in misses(trial, budget)]
    over += [trial for trial in others if trial.state == DROPPED]
    if over:
        worst = amount(max(map(_drop, over)), metric)
        said.append(f"{len(over)} of {len(trials)} candidates lose too much, up to {worst}")
    fitting = [trial for trial in timed if not misses(trial, budget)]
    slower = [trial for trial in fitting if _latency(trial) > ALIKE * _latency(chosen)]
    if slower and budget.objective == "latency":
        times = min(map(_latency, slower)) / _latency(chosen)
        said.append(f"{len(slower)} fit and are slower, the next takes {times:.2f} times as long")
    larger = [trial for trial in fitting if (trial.size_bytes or 0) > (chosen.size_bytes or 0)]
    if larger and budget.objective == "size":
        said.append(f"{len(larger)} fit and are larger")
    by_chance = [trial for trial in fitting if _by_chance(chosen, trial)]
    if by_chance:
        best = amount(_drop(chosen) - min(map(_drop, by_chance)), metric)
        said.append(f"{len(by_chance)} seem better by up to {best}, which is chance, and are less simple")
    for state, why in ((BROKEN, "turned out to compute something else than the model"), (FAILED, "could not be made")):
        unfit = [trial for trial in others if trial.state == state]
        said += [f"{len(unfit)} {why}"] if unfit else []
    return "; ".join(said) + "."


def measured(trial: Trial, metric: str) -> str:
    """A trial and what is known of it, in a line."""
    facts = [_loses(_drop(trial), metric)]
    facts += [f"{trial.latency_ms:.4g} ms"] if trial.latency_ms is not None else []
    facts += [f"{trial.size_bytes / 2**20:.3g} MiB"] if trial.size_bytes is not None else []
    return f"{trial.name}: {', '.join(facts)}"


def _loses(drop: float, metric: str) -> str:
    if drop == 0:
        return "loses nothing"
    return f"loses {amount(drop, metric)}" if drop > 0 else f"gains {amount(-drop, metric)}"


def amount(drop: float, metric: str) -> str:
    """A drop, for people."""
    return f"{100 * drop:.2f} points" if metric in ("accuracy", "agreement") else f"{drop:.4g} of {metric}"


def _by_chance(chosen: Trial, other: Trial) -> bool:
    """Whether another loses less, by no more than its standard error, and does more for it at the same speed."""
    gain = _drop(chosen) - _drop(other)
    alike = _latency(other) <= ALIKE * _latency(chosen) and complexity(other.recipe) > complexity(chosen.recipe)
    return alike and 0 < gain <= (other.error or 0.0)


def _told(trial: Trial) -> str:
    return trial.name.partition(" ")[2]


def _drop(trial: Trial) -> float:
    return math.inf if trial.drop is None else trial.drop


def _latency(trial: Trial) -> float:
    return math.inf if trial.latency_ms is None else trial.latency_ms
