"""Compare: the dense model and the pruned one, as they are and quantized, in every format: what pruning bought."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edgekit import steps
from edgekit.pruning.asked import Pruning
from edgekit.pruning.reach import quantized
from edgekit.pruning.slim import Slim
from edgekit.steps import Work
from edgekit_converters.records import Artifact, Evaluation, Latency
from edgekit_converters.train import Epoch

APART = 0.1  # of the dense model: as far as time and multiplications may be apart without a word


@dataclass(frozen=True)
class ModelReport:
    """One model in one format and arithmetic."""

    model: str  # "dense" or "pruned"
    engine: str
    scheme: str
    parameters: int
    macs: int
    size_bytes: int
    value: float | None  # of the metric
    latency_ms: Latency  # in turns with the others of its engine


@dataclass(frozen=True)
class GroupReport:
    """Channels that were cut together."""

    name: str
    kind: str
    width: int
    left: int


@dataclass(frozen=True)
class RoundReport:
    """A training after a cut; values are of held-out training data."""

    metric: str
    before: float
    value: float
    best: int
    history: tuple[Epoch, ...]


@dataclass(frozen=True)
class PruningReport:
    """What was cut, and what it bought. ``counted`` and ``measured`` are parts left of what the goal is about."""

    goal: str
    importance: str
    counted: float
    measured: float | None
    measured_in: str | None
    metric: str | None
    dense: float | None  # the metric of the dense source
    pruned: float | None  # and of the pruned one
    groups: tuple[GroupReport, ...]
    whole: tuple[tuple[str, str], ...]  # layers left whole, and why
    rounds: tuple[RoundReport, ...]
    models: tuple[ModelReport, ...]
    notes: tuple[str, ...]


def compare(work: Work, pruning: Pruning, made: Slim, known: Mapping[tuple[str, str], Artifact]) -> PruningReport:
    """Measure both models side by side in every format of the plan, and tell all of the pruning.

    Args:
        work: of the dense model.
        pruning: what was asked.
        made: what became of it.
        known: artifacts of the pruned model that were made already, by (engine, scheme).
    """
    work = _judged(work)
    dense = steps.evaluate_source(work)
    pruned = steps.evaluate_source(replace(work, source=made.source, dense=None))
    models = tuple(row for engine in work.plan.engines for row in _measured(work, made, engine, known))
    return PruningReport(
        goal=str(pruning.goal),
        importance=made.importance,
        counted=made.counted,
        measured=made.measured,
        measured_in=made.gauge or None,
        metric=dense.metric if dense else None,
        dense=dense.value if dense else None,
        pruned=pruned.value if pruned else None,
        groups=tuple(GroupReport(one.name, one.kind, one.width, made.widths[one.name]) for one in made.dense.groups),
        whole=made.dense.whole,
        rounds=tuple(RoundReport(one.metric, one.before, one.value, one.best, one.history) for one in made.trained),
        models=models,
        notes=(*made.notes, *(note for one in made.trained for note in one.notes), *_honest(models)),
    )


def _judged(work: Work) -> Work:
    """The work with data that tell what a model is worth: by the dense one's answers, where they have no labels."""
    data = work.evaluation
    if data is None or data.labels is not None or work.plan.metric or steps.reconstructs(work):
        return work
    return replace(work, evaluation=steps.answer(work, data), agreement=True)


def _measured(work: Work, made: Slim, engine: str, known: Mapping[tuple[str, str], Artifact]) -> Iterator[ModelReport]:
    """Both models in one format: made, evaluated, and timed in turns."""
    schemes = tuple(dict.fromkeys(("float32", *work.plan.schemes_of(engine))))
    artifacts = [*_made(work, engine, schemes, {}), *_made(replace(work, source=made.source), engine, schemes, known)]
    names = [(model, scheme) for model in ("dense", "pruned") for scheme in schemes]
    widths = {"dense": made.dense.widths, "pruned": made.widths}
    for (model, scheme), artifact, latency in zip(names, artifacts, steps.rank(work, artifacts), strict=True):
        evaluation: Evaluation | None = steps.evaluate_artifact(work, artifact)
        yield ModelReport(
            model,
            engine,
            scheme,
            made.dense.parameters_at(widths[model]),
            made.dense.macs_at(widths[model]),
            artifact.size_bytes,
            evaluation.value if evaluation else None,
            latency,
        )


def _made(
    work: Work, engine: str, schemes: Sequence[str], known: Mapping[tuple[str, str], Artifact]
) -> Iterator[Artifact]:
    lowered = steps.lower(work, engine)
    for scheme in schemes:
        yield known.get((engine, scheme)) or (lowered if scheme == "float32" else quantized(work, lowered, scheme))


def _honest(models: Sequence[ModelReport]) -> Iterator[str]:
    """Say where the time that is left is not the multiplications that are left."""
    whole = {(one.engine, one.scheme): one for one in models if one.model == "dense"}
    for one in models:
        dense = whole[one.engine, one.scheme]
        time, macs = one.latency_ms.p50 / dense.latency_ms.p50, one.macs / dense.macs
        if one.model == "pruned" and abs(time - macs) > APART:
            yield (
                f"pruning: {one.engine} {one.scheme} takes {100 * time:.0f} % of the dense model's time for "
                f"{100 * macs:.0f} % of its multiplications"
            )
