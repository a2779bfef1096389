"""Compare the original and the pruned model: as models, and in every format and scheme of the plan."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from edgekit.conversion import stages
from edgekit.conversion.context import ConversionContext
from edgekit.pruning.options import PruningPlan
from edgekit.pruning.prune import PrunedModel
from edgekit.pruning.search import quantize_examined
from edgekit.report.pruning_report import GroupReport, ModelReport, PruningReport, RoundReport
from edgekit_converters.prune import PruningGraph, Widths
from edgekit_converters.records import Artifact
from edgekit_converters.train import TrainingResult
from edgekit_runtime.errors import DiskFull, EdgekitError

NOTABLE = 0.1  # of the original: a larger difference between latency and MACs gets a note


def compare(
    context: ConversionContext, pruning: PruningPlan, pruned: PrunedModel, known: Mapping[tuple[str, str], Artifact]
) -> PruningReport:
    """Measure both models side by side in every format of the plan, and describe the pruning.

    Args:
        context: of the original model.
        pruning: how it was pruned.
        pruned: the result.
        known: artifacts of the pruned model that exist already, by (engine, scheme).
    """
    context = _with_labels(context)
    before = stages.evaluate_source(context)
    after = stages.evaluate_source(replace(context, source=pruned.source, unpruned=None))
    problems: list[str] = []
    models: list[ModelReport] = []
    for engine in context.targets.engines:
        with _collect_errors(engine, problems):
            models += list(_measure(context, pruning, pruned, engine, known, problems))
    return PruningReport(
        goal=str(pruning),
        importance=pruned.importance,
        counted=pruned.counted,
        measured=pruned.measured,
        measured_in=pruned.measured_in or None,
        metric=before.metric if before else None,
        dense=before.value if before else None,
        pruned=after.value if after else None,
        dropped=pruned.dropped,
        groups=tuple(_group_reports(pruned)) if pruning.goal else (),
        whole=pruned.original.unprunable if pruned.original and pruning.goal else (),
        rounds=tuple(RoundReport(one.metric, one.before, one.value, one.best, one.history) for one in pruned.trained),
        models=tuple(models),
        notes=(
            *pruned.notes,
            *round_notes(pruned.trained),
            *dict.fromkeys(problems),
            *_latency_notes(models),
            *_sparsity_notes(pruning, models),
        ),
        sparse=pruned.sparse,
    )


def round_notes(trained: Sequence[TrainingResult]) -> Iterator[str]:
    """Yield the notes of all trainings, with the number of the round if there are several."""
    for number, training in enumerate(trained, 1):
        yield from (f"round {number}: {note}" if len(trained) > 1 else note for note in training.notes)


def _group_reports(pruned: PrunedModel) -> Iterator[GroupReport]:
    if pruned.original is None or pruned.last is None:
        return
    widths = {layer: pruned.widths[group.name] for group in pruned.last.groups for layer in group.producers}
    widths |= pruned.widths
    remaining = {cost.layer for cost in pruned.last.layer_costs}
    for group in pruned.original.groups:
        found = (widths[name] for name in (group.name, *group.producers) if name in widths)
        unpruned = group.width if remaining.intersection(group.producers) else 0
        yield GroupReport(group.name, group.kind, group.width, next(found, unpruned))


def _with_labels(context: ConversionContext) -> ConversionContext:
    """Return the context with labelled evaluation data: with the original's outputs if there are no labels."""
    data = context.evaluation
    if data is None or data.labels is not None or context.data.metric or stages.reconstructs_input(context):
        return context
    return replace(context, evaluation=stages.pseudo_label(context, data), agreement=True)


@contextmanager
def _collect_errors(subject: str, problems: list[str]) -> Iterator[None]:
    """Collect errors of a measurement, so that the trained model is not lost; a full disk ends the command."""
    try:
        yield
    except DiskFull:
        raise
    except EdgekitError as error:
        problems.append(f"pruning: not measured in {subject}: {'; '.join(str(error).splitlines())}")


def _measure(
    context: ConversionContext,
    pruning: PruningPlan,
    pruned: PrunedModel,
    engine: str,
    known: Mapping[tuple[str, str], Artifact],
    problems: list[str],
) -> Iterator[ModelReport]:
    """Make, evaluate and time both models in one format, in turns."""
    before = dict(_artifacts(context, engine, {}, problems))
    after = dict(_artifacts(replace(context, source=pruned.source), engine, known, problems))
    schemes = [scheme for scheme in before if scheme in after]
    artifacts = [by_scheme[scheme] for by_scheme in (before, after) for scheme in schemes]
    name = "pruned" if pruning.prunes else "trained"
    names = [(model, scheme) for model in ("dense", name) for scheme in schemes]
    widths = pruned.original.widths if pruned.original else {}
    costs = {"dense": _costs(pruned.original, widths), name: _costs(pruned.last, pruned.widths)}
    latencies = stages.rank_latency(context, artifacts)
    for (model, scheme), artifact, latency in zip(names, artifacts, latencies, strict=True):
        evaluation = stages.evaluate_artifact(context, artifact)
        parameters, macs = costs[model]
        yield ModelReport(
            model=model,
            engine=engine,
            scheme=scheme,
            parameters=parameters,
            macs=macs,
            size_bytes=artifact.size_bytes,
            value=evaluation.value if evaluation else None,
            latency_ms=latency,
            compressed_bytes=_compressed_bytes(artifact) if pruned.sparse else None,
        )


def _costs(graph: PruningGraph | None, widths: Widths) -> tuple[int | None, int | None]:
    """Return parameters and MACs of a model; None if it cannot be analyzed."""
    return (graph.parameters_at(widths), graph.macs_at(widths)) if graph else (None, None)


def _artifacts(
    context: ConversionContext, engine: str, known: Mapping[tuple[str, str], Artifact], problems: list[str]
) -> Iterator[tuple[str, Artifact]]:
    """Yield the artifact of each scheme that the toolchain can make."""
    lowered = stages.lower(context, engine)
    artifacts = {"float32": lowered} | {scheme: artifact for (of, scheme), artifact in known.items() if of == engine}
    for scheme in dict.fromkeys(("float32", *context.targets.schemes_of(engine))):
        with _collect_errors(f"{engine} {scheme}", problems):
            if scheme not in artifacts:
                artifacts[scheme] = quantize_examined(context, lowered, scheme)
            yield scheme, artifacts[scheme]


def _latency_notes(models: Sequence[ModelReport]) -> Iterator[str]:
    """Note where latency fell much less, or more, than MACs."""
    originals = {(model.engine, model.scheme): model for model in models if model.model == "dense"}
    for model in models:
        original = originals[model.engine, model.scheme]
        latency = model.latency_ms.p50 / original.latency_ms.p50
        macs = (model.macs or 1) / (original.macs or 1)
        if model.model == "pruned" and abs(latency - macs) > NOTABLE:
            yield (
                f"pruning: {model.engine} {model.scheme} takes {100 * latency:.0f} % of the dense model's time for "
                f"{100 * macs:.0f} % of its multiplications"
            )


def _compressed_bytes(artifact: Artifact) -> int:
    return sum(len(zlib.compress(path.read_bytes())) for path in artifact.files)


def _sparsity_notes(pruning: PruningPlan, models: Sequence[ModelReport]) -> Iterator[str]:
    """Note the effect of zeros on size, compressed size and latency in each format."""
    originals = {(model.engine, model.scheme): model for model in models if model.model == "dense"}
    slow = []
    for model in models if pruning.sparsity else ():
        original = originals[model.engine, model.scheme]
        if model.model == "dense" or not model.compressed_bytes or not original.compressed_bytes:
            continue
        size, compressed = (
            model.size_bytes / original.size_bytes,
            model.compressed_bytes / original.compressed_bytes,
        )
        latency = model.latency_ms.p50 / original.latency_ms.p50
        slow += [f"{model.engine} {model.scheme}"] if latency > 1 - NOTABLE else []
        yield (
            f"sparsity: {model.engine} {model.scheme} has {100 * size:.0f} % of the dense file's size, "
            f"{100 * compressed:.0f} % of its compressed size, and takes {100 * latency:.0f} % of its time"
        )
    if slow and pruning.goal is None:
        yield (
            f"sparsity: {', '.join(slow)} are no faster here, because the kernels multiply zeros like other weights; "
            f"sparsity makes downloads smaller. For speed, prune channels: --prune-to latency=0.5"
        )
