"""Compare: the dense model and the pruned one, as they are and quantized, in every format: what pruning bought."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from edgekit.conversion import stages
from edgekit.conversion.context import ConversionContext
from edgekit.pruning.options import PruningPlan
from edgekit.pruning.prune import PrunedModel
from edgekit.pruning.search import quantized
from edgekit.report.pruning_report import GroupReport, ModelReport, PruningReport, RoundReport
from edgekit_converters.prune import PruningGraph, Widths
from edgekit_converters.records import Artifact, Evaluation
from edgekit_converters.train import Trained
from edgekit_runtime.errors import DiskFull, EdgekitError

APART = 0.1  # of the dense model: as far as time and multiplications may be apart without a word


def compare(
    context: ConversionContext, pruning: PruningPlan, made: PrunedModel, known: Mapping[tuple[str, str], Artifact]
) -> PruningReport:
    """Measure both models side by side in every format of the plan, and tell all of the pruning.

    Args:
        context: of the dense model.
        pruning: what was asked.
        made: what became of it.
        known: artifacts of the pruned model that were made already, by (engine, scheme).
    """
    context = _judged(context)
    dense = stages.evaluate_source(context)
    pruned = stages.evaluate_source(replace(context, source=made.source, unpruned=None))
    refused: list[str] = []
    models: list[ModelReport] = []
    for engine in context.targets.engines:
        with _told(engine, refused):
            models += list(_measured(context, pruning, made, engine, known, refused))
    return PruningReport(
        goal=str(pruning),
        importance=made.importance,
        counted=made.counted,
        measured=made.measured,
        measured_in=made.gauge or None,
        metric=dense.metric if dense else None,
        dense=dense.value if dense else None,
        pruned=pruned.value if pruned else None,
        dropped=made.dropped,
        groups=tuple(_groups(made)) if pruning.goal else (),
        whole=made.dense.whole if made.dense and pruning.goal else (),
        rounds=tuple(RoundReport(one.metric, one.before, one.value, one.best, one.history) for one in made.trained),
        models=tuple(models),
        notes=(
            *made.notes,
            *told_of_rounds(made.trained),
            *dict.fromkeys(refused),
            *_honest(models),
            *_bought(pruning, models),
        ),
        sparse=made.thinned,
    )


def told_of_rounds(trained: Sequence[Trained]) -> Iterator[str]:
    """Yield what is to be said of trainings, of several ones with the round."""
    for number, one in enumerate(trained, 1):
        yield from (f"round {number}: {note}" if len(trained) > 1 else note for note in one.notes)


def _groups(made: PrunedModel) -> Iterator[GroupReport]:
    if made.dense is None or made.left is None:
        return
    widths = {maker: made.widths[one.name] for one in made.left.groups for maker in one.makers} | made.widths
    there = {one.layer for one in made.left.labours}
    for one in made.dense.groups:
        found = (widths[name] for name in (one.name, *one.makers) if name in widths)
        whole = one.width if there.intersection(one.makers) else 0
        yield GroupReport(one.name, one.kind, one.width, next(found, whole))


def _judged(context: ConversionContext) -> ConversionContext:
    """The work with data that tell what a model is worth: by the dense one's answers, where they have no labels."""
    data = context.evaluation
    if data is None or data.labels is not None or context.data.metric or stages.reconstructs_input(context):
        return context
    return replace(context, evaluation=stages.pseudo_label(context, data), agreement=True)


@contextmanager
def _told(what: str, refused: list[str]) -> Iterator[None]:
    """Tell what cannot be measured, and why, instead of losing what was trained for it; a full disk ends all."""
    try:
        yield
    except DiskFull:
        raise
    except EdgekitError as error:
        refused.append(f"pruning: not measured in {what}: {'; '.join(str(error).splitlines())}")


def _measured(
    context: ConversionContext,
    pruning: PruningPlan,
    made: PrunedModel,
    engine: str,
    known: Mapping[tuple[str, str], Artifact],
    refused: list[str],
) -> Iterator[ModelReport]:
    """Both models in one format: made, evaluated, and timed in turns."""
    whole_ones = dict(_made(context, engine, {}, refused))
    cut_ones = dict(_made(replace(context, source=made.source), engine, known, refused))
    schemes = [scheme for scheme in whole_ones if scheme in cut_ones]
    artifacts = [ones[scheme] for ones in (whole_ones, cut_ones) for scheme in schemes]
    became = "pruned" if pruning.prunes else "trained"
    names = [(model, scheme) for model in ("dense", became) for scheme in schemes]
    whole = made.dense.widths if made.dense else {}
    costs = {"dense": _costs(made.dense, whole), became: _costs(made.left, made.widths)}
    for (model, scheme), artifact, latency in zip(
        names, artifacts, stages.rank_latency(context, artifacts), strict=True
    ):
        evaluation: Evaluation | None = stages.evaluate_artifact(context, artifact)
        yield ModelReport(
            model,
            engine,
            scheme,
            *costs[model],
            artifact.size_bytes,
            evaluation.value if evaluation else None,
            latency,
            _deflated(artifact) if made.thinned else None,
        )


def _costs(anatomy: PruningGraph | None, widths: Widths) -> tuple[int | None, int | None]:
    """Parameters and MACs of a model; None where its computation cannot be followed."""
    return (anatomy.parameters_at(widths), anatomy.macs_at(widths)) if anatomy else (None, None)


def _made(
    context: ConversionContext, engine: str, known: Mapping[tuple[str, str], Artifact], refused: list[str]
) -> Iterator[tuple[str, Artifact]]:
    """Yield each scheme's artifact; ``refused`` has what the toolchain cannot quantize so."""
    lowered = stages.lower(context, engine)
    made = {"float32": lowered} | {scheme: one for (of, scheme), one in known.items() if of == engine}
    for scheme in dict.fromkeys(("float32", *context.targets.schemes_of(engine))):
        with _told(f"{engine} {scheme}", refused):
            if scheme not in made:
                made[scheme] = quantized(context, lowered, scheme)
            yield scheme, made[scheme]


def _honest(models: Sequence[ModelReport]) -> Iterator[str]:
    """Say where the time that is left is not the multiplications that are left."""
    whole = {(one.engine, one.scheme): one for one in models if one.model == "dense"}
    for one in models:
        dense = whole[one.engine, one.scheme]
        time, macs = one.latency_ms.p50 / dense.latency_ms.p50, (one.macs or 1) / (dense.macs or 1)
        if one.model == "pruned" and abs(time - macs) > APART:
            yield (
                f"pruning: {one.engine} {one.scheme} takes {100 * time:.0f} % of the dense model's time for "
                f"{100 * macs:.0f} % of its multiplications"
            )


def _deflated(artifact: Artifact) -> int:
    return sum(len(zlib.compress(path.read_bytes())) for path in artifact.files)


def _bought(pruning: PruningPlan, models: Sequence[ModelReport]) -> Iterator[str]:
    """Say what zeros bought in each format: what the file has when it is compressed, and what a call takes."""
    whole = {(one.engine, one.scheme): one for one in models if one.model == "dense"}
    slow = []
    for one in models if pruning.sparsity else ():
        dense = whole[one.engine, one.scheme]
        if one.model == "dense" or not one.compressed_bytes or not dense.compressed_bytes:
            continue
        size, less = one.size_bytes / dense.size_bytes, one.compressed_bytes / dense.compressed_bytes
        time = one.latency_ms.p50 / dense.latency_ms.p50
        slow += [f"{one.engine} {one.scheme}"] if time > 1 - APART else []
        yield (
            f"sparsity: {one.engine} {one.scheme} has {100 * size:.0f} % of the dense file, compressed "
            f"{100 * less:.0f} % of the dense one compressed, and takes {100 * time:.0f} % of its time"
        )
    if slow and pruning.goal is None:
        yield (
            f"sparsity: zeros made {', '.join(slow)} no faster here, where they are multiplied by like other weights; "
            f"they make downloads smaller. For time, cut channels instead: --prune-to latency=0.5"
        )
