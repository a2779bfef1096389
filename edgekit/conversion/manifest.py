"""What goes into the bundle: the manifest and the files, put together from what the stages left."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.plan.plan import ConversionPlan
from edgekit.plan.postprocessing import read_labels
from edgekit.plan.targets import VariantPlan
from edgekit_converters.data import DataSet
from edgekit_converters.formats import format_of
from edgekit_converters.recipe import toml
from edgekit_converters.recipe.recipe import Recipe
from edgekit_converters.records import Artifact, Comparison, Evaluation, Finding, Latency, Probe, Source
from edgekit_converters.verify.acceptance import drop
from edgekit_runtime.errors import DataError
from edgekit_runtime.format.manifest import (
    Accuracy,
    Golden,
    InputSpec,
    Manifest,
    OutputSpec,
    Postprocessing,
    Requirements,
    Variant,
)

GOLDEN_SAMPLES, GOLDEN_BYTES = 4, 2**20  # at most so many samples, and about so many bytes of inputs
LABELS = "labels.txt"
# How far another machine may be off, as a fraction of an output's largest golden value: other kernels round elsewhere.
TOLERANCE = {"f32": 1e-3, "f16": 2e-2, "bf16": 6e-2}
TOLERANCE_INT8 = 5e-2


@dataclass(frozen=True)
class BuiltArtifact:
    """One artifact with everything measured of it."""

    artifact: Artifact
    comparison: Comparison
    evaluation: Evaluation | None
    latency: Latency | None = None
    findings: tuple[Finding, ...] = ()  # of what it was made from
    recipe: Recipe | None = None  # how it was made; None of what came quantized

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.artifact.engine} {self.artifact.scheme}"


@dataclass(frozen=True)
class Contents:
    """Everything a bundle is made of."""

    plan: ConversionPlan
    source: Source
    inputs: tuple[InputSpec, ...]
    probe: Probe
    made: dict[tuple[str, str], BuiltArtifact]  # by (engine, scheme)
    baseline: Evaluation | None
    calibration: DataSet | None
    labels: tuple[str, ...]
    postprocessing: Postprocessing | None
    notes: tuple[str, ...]  # what assembling it decided
    versions: dict[str, str]


def manifest(contents: Contents) -> Manifest:
    """Return the manifest; the writer fills in the list of files."""
    plan = contents.plan
    return Manifest(
        model_name=plan.model.name,
        model_version=plan.version,
        inputs=contents.inputs,
        outputs=_outputs(contents),
        variants=tuple(_variant(contents, variant) for variant in plan.targets.variants),
        files=(),
        golden_inputs=tuple(_golden_input(index) for index in range(len(contents.inputs))),
        devices=tuple(
            device.to_dict() | {"variants": list(plan.targets.preferred[device.name])}
            for device in plan.targets.devices
        ),
        recipe=_recipe(contents),
        calibration=_calibration(contents.calibration),
        versions=contents.versions,
        postprocessing=contents.postprocessing,
    )


def files(contents: Contents) -> dict[str, Path | bytes]:
    """Return the bundle's files: path in the bundle → where they are, or what they hold."""
    count = _golden_count(contents)
    found: dict[str, Path | bytes] = {}
    for index, path in enumerate(contents.probe.inputs):
        found[_golden_input(index)] = _first(path, count)
    for made in contents.made.values():
        folder = _folder(made.artifact)
        for path in made.artifact.files:
            found[f"variants/{folder}/{path.name}"] = path
        for index, path in enumerate(made.comparison.computed):
            found[f"golden/{folder}/output-{index}.npy"] = _first(path, count)
    if contents.labels:
        found[LABELS] = ("\n".join(contents.labels) + "\n").encode()
    return found


def labels(
    plan: ConversionPlan, source: Source, data: DataSet | None, declared: Postprocessing | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the class names of the output that has the scores, and notes: from ``--labels``, else from the data.

    Raises:
        DataError: the file does not name each class once.
    """
    output = source.outputs[_labelled(source, declared)]
    classes = declared.classes(output.shape) if declared else output.shape[-1] if len(output.shape) == 2 else 0
    if plan.labels is not None:
        names = read_labels(plan.labels)
        if len(names) != classes:
            raise DataError(f"{plan.labels}: {len(names)} labels; the output {output.name!r} has {classes} classes")
        return names, ()
    names = data.classes if data else ()
    if names and len(names) != classes:
        return (), (
            f"the data name {len(names)} classes, the output {output.name!r} has {classes}: no labels were taken",
        )
    return names, ()


def _labelled(source: Source, declared: Postprocessing | None) -> int:
    """Which output the class names are for: that of the scores, else the first."""
    return [output.name for output in source.outputs].index(declared.scores) if declared else 0


def _variant(contents: Contents, variant: VariantPlan) -> Variant:
    made = contents.made[variant.artifact]
    folder = _folder(made.artifact)
    return Variant(
        name=variant.name,
        engine=variant.engine,
        device=variant.device,
        delegate=variant.delegate,
        scheme=variant.scheme,
        files=tuple(f"variants/{folder}/{path.name}" for path in made.artifact.files),
        inputs=made.artifact.inputs,
        outputs=made.artifact.outputs,
        golden=Golden(
            outputs=tuple(f"golden/{folder}/output-{index}.npy" for index in range(len(made.comparison.computed))),
            max_abs=tuple(_tolerance(made, output, variant) for output in contents.source.outputs),
        ),
        # any processor the engine runs on; in memory, at the least the artifact itself
        requirements=Requirements(engine_version=made.artifact.engine_version, memory_bytes=made.artifact.size_bytes),
        accuracy=_accuracy(contents.baseline, made.evaluation),
        settings=format_of(variant.engine).engine_settings(variant.scheme, variant.precision, variant.device),
    )


def _tolerance(made: BuiltArtifact, output: OutputSpec, variant: VariantPlan) -> float | tuple[float, ...]:
    """Return how far an output may be off elsewhere, of a joined one each of its parts.

    At least the fraction of its largest value that other kernels of the same precision cost, at least two steps of
    its own quantization, and at least half of what quantization itself has cost: nearer than that, the board
    computes what was verified.
    """
    integer = variant.scheme.startswith("int") and not variant.scheme.endswith("weights")
    fraction = TOLERANCE_INT8 if integer else TOLERANCE[_precision(variant)]
    found = [one for one in made.comparison.parity if one.output == output.name]
    limits = (max(fraction * one.largest, 2 * one.step, one.max_abs_error / 2, 1e-6) for one in found)
    rounded = tuple(float(f"{limit:.6g}") for limit in limits)
    return rounded if found[0].part is not None else rounded[0]


def _precision(variant: VariantPlan) -> str:
    return "f16" if variant.scheme == "float16" and variant.precision == "f32" else variant.precision


def _accuracy(baseline: Evaluation | None, evaluation: Evaluation | None) -> Accuracy | None:
    if baseline is None or evaluation is None or baseline.metric != "accuracy":
        return None
    return Accuracy(evaluation.value, round(drop(baseline, evaluation), 9), evaluation.samples)


def _outputs(contents: Contents) -> tuple[OutputSpec, ...]:
    outputs = list(contents.source.outputs)
    if contents.labels:
        place = _labelled(contents.source, contents.postprocessing)
        outputs[place] = replace(outputs[place], labels=LABELS)
    return tuple(outputs)


def _recipe(contents: Contents) -> dict[str, Any]:
    """Return what was asked for, without the paths and times that would make equal bundles differ."""
    plan, baseline = contents.plan, contents.baseline
    return {
        "framework": contents.source.framework,
        "schemes": list(plan.targets.schemes),
        "max_drop": plan.max_drop,
        "evaluation": _evaluation(baseline) if baseline else None,
        "recipes": {
            variant.name: toml.write(made.recipe)
            for variant in plan.targets.variants
            if (made := contents.made[variant.artifact]).recipe not in (None, Recipe(variant.scheme))
        },
    }


def _evaluation(baseline: Evaluation) -> dict[str, Any]:
    return {"metric": baseline.metric, "value": baseline.value, "samples": baseline.samples}


def _calibration(data: DataSet | None) -> dict[str, Any] | None:
    return {"sha256": data.sha256, "samples": data.count} if data else None


def _golden_input(index: int) -> str:
    return f"golden/input-{index}.npy"


def _golden_count(contents: Contents) -> int:
    sample_bytes = sum(int(np.load(path, mmap_mode="r")[:1].nbytes) for path in contents.probe.inputs)
    return max(1, min(GOLDEN_SAMPLES, GOLDEN_BYTES // max(1, sample_bytes)))


def _first(path: Path, count: int) -> bytes:
    """Return the first samples as a bundle keeps them: (samples, 1, ...), each with its batch."""
    buffer = io.BytesIO()
    np.save(buffer, np.load(path)[:count, np.newaxis])
    return buffer.getvalue()


def _folder(artifact: Artifact) -> str:
    return f"{artifact.engine}-{artifact.scheme}"
