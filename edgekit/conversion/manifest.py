"""Build the manifest and the list of files of a bundle from the results of the stages."""

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
# Allowed difference on another machine, relative to an output's largest golden value: its kernels round differently.
TOLERANCE = {"f32": 1e-3, "f16": 2e-2, "bf16": 6e-2}
TOLERANCE_INT8 = 5e-2


@dataclass(frozen=True)
class BuiltArtifact:
    """An artifact with its measurements."""

    artifact: Artifact
    comparison: Comparison
    evaluation: Evaluation | None
    latency: Latency | None = None
    findings: tuple[Finding, ...] = ()  # of the float artifact
    recipe: Recipe | None = None  # None if the model file was quantized

    @property
    def name(self) -> str:
        """Engine and scheme, for messages."""
        return f"{self.artifact.engine} {self.artifact.scheme}"


@dataclass(frozen=True)
class BundleParts:
    """Everything that a bundle is built from."""

    plan: ConversionPlan
    source: Source
    inputs: tuple[InputSpec, ...]
    probe: Probe
    built: dict[tuple[str, str], BuiltArtifact]  # by (engine, scheme)
    baseline: Evaluation | None
    calibration: DataSet | None
    labels: tuple[str, ...]
    postprocessing: Postprocessing | None
    notes: tuple[str, ...]  # of the choice of labels and postprocessing, and of the search
    versions: dict[str, str]


def manifest(parts: BundleParts) -> Manifest:
    """Return the manifest; the writer fills in the list of files."""
    plan = parts.plan
    return Manifest(
        model_name=plan.model.name,
        model_version=plan.version,
        inputs=parts.inputs,
        outputs=_outputs(parts),
        variants=tuple(_variant(parts, variant) for variant in plan.targets.variants),
        files=(),
        golden_inputs=tuple(_golden_input(index) for index in range(len(parts.inputs))),
        devices=tuple(
            device.to_dict() | {"variants": list(plan.targets.preferred[device.name])}
            for device in plan.targets.devices
        ),
        recipe=_recipe(parts),
        calibration=_calibration(parts.calibration),
        versions=parts.versions,
        postprocessing=parts.postprocessing,
    )


def files(parts: BundleParts) -> dict[str, Path | bytes]:
    """Return the bundle's files: path in the bundle -> path on disk, or content."""
    count = _golden_count(parts)
    found: dict[str, Path | bytes] = {}
    for index, path in enumerate(parts.probe.inputs):
        found[_golden_input(index)] = _first(path, count)
    for built in parts.built.values():
        folder = _folder(built.artifact)
        for path in built.artifact.files:
            found[f"variants/{folder}/{path.name}"] = path
        for index, path in enumerate(built.comparison.computed):
            found[f"golden/{folder}/output-{index}.npy"] = _first(path, count)
    if parts.labels:
        found[LABELS] = ("\n".join(parts.labels) + "\n").encode()
    return found


def labels(
    plan: ConversionPlan, source: Source, data: DataSet | None, declared: Postprocessing | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the class names of the output with the scores, and notes; the names are from ``--labels`` or the data.

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
            f"the data name {len(names)} classes, the output {output.name!r} has {classes}: its labels are not used",
        )
    return names, ()


def _labelled(source: Source, declared: Postprocessing | None) -> int:
    """Return the index of the output that the class names are for: that with the scores, else the first."""
    return [output.name for output in source.outputs].index(declared.scores) if declared else 0


def _variant(parts: BundleParts, variant: VariantPlan) -> Variant:
    built = parts.built[variant.artifact]
    folder = _folder(built.artifact)
    return Variant(
        name=variant.name,
        engine=variant.engine,
        device=variant.device,
        delegate=variant.delegate,
        scheme=variant.scheme,
        files=tuple(f"variants/{folder}/{path.name}" for path in built.artifact.files),
        inputs=built.artifact.inputs,
        outputs=built.artifact.outputs,
        golden=Golden(
            outputs=tuple(f"golden/{folder}/output-{index}.npy" for index in range(len(built.comparison.computed))),
            max_abs=tuple(_tolerance(built, output, variant) for output in parts.source.outputs),
        ),
        # any processor that the engine runs on, and memory for at least the artifact itself
        requirements=Requirements(engine_version=built.artifact.engine_version, memory_bytes=built.artifact.size_bytes),
        accuracy=_accuracy(parts.baseline, built.evaluation),
        settings=format_of(variant.engine).engine_settings(variant.scheme, variant.precision, variant.device),
    )


def _tolerance(built: BuiltArtifact, output: OutputSpec, variant: VariantPlan) -> float | tuple[float, ...]:
    """Return the allowed difference of an output on another machine, for a joined output that of each part.

    The largest of: a fraction of its largest value, for other kernels of the same precision; two steps of its
    quantization; half of the error that quantization caused. Within this, the board computes what was verified.
    """
    integer = variant.scheme.startswith("int") and not variant.scheme.endswith("weights")
    fraction = TOLERANCE_INT8 if integer else TOLERANCE[_precision(variant)]
    found = [parity for parity in built.comparison.parity if parity.output == output.name]
    limits = (max(fraction * part.largest, 2 * part.step, part.max_abs_error / 2, 1e-6) for part in found)
    rounded = tuple(float(f"{limit:.6g}") for limit in limits)
    return rounded if found[0].part is not None else rounded[0]


def _precision(variant: VariantPlan) -> str:
    return "f16" if variant.scheme == "float16" and variant.precision == "f32" else variant.precision


def _accuracy(baseline: Evaluation | None, evaluation: Evaluation | None) -> Accuracy | None:
    if baseline is None or evaluation is None or baseline.metric != "accuracy":
        return None
    return Accuracy(evaluation.value, round(drop(baseline, evaluation), 9), evaluation.samples)


def _outputs(parts: BundleParts) -> tuple[OutputSpec, ...]:
    outputs = list(parts.source.outputs)
    if parts.labels:
        place = _labelled(parts.source, parts.postprocessing)
        outputs[place] = replace(outputs[place], labels=LABELS)
    return tuple(outputs)


def _recipe(parts: BundleParts) -> dict[str, Any]:
    """Return the options of the conversion, without paths and times, which would make equal bundles differ."""
    plan, baseline = parts.plan, parts.baseline
    return {
        "framework": parts.source.framework,
        "schemes": list(plan.targets.schemes),
        "max_drop": plan.max_drop,
        "evaluation": _evaluation(baseline) if baseline else None,
        "recipes": {
            variant.name: toml.write(built.recipe)
            for variant in plan.targets.variants
            if (built := parts.built[variant.artifact]).recipe not in (None, Recipe(variant.scheme))
        },
    }


def _evaluation(baseline: Evaluation) -> dict[str, Any]:
    return {"metric": baseline.metric, "value": baseline.value, "samples": baseline.samples}


def _calibration(data: DataSet | None) -> dict[str, Any] | None:
    return {"sha256": data.sha256, "samples": data.count} if data else None


def _golden_input(index: int) -> str:
    return f"golden/input-{index}.npy"


def _golden_count(parts: BundleParts) -> int:
    sample_bytes = sum(int(np.load(path, mmap_mode="r")[:1].nbytes) for path in parts.probe.inputs)
    return max(1, min(GOLDEN_SAMPLES, GOLDEN_BYTES // max(1, sample_bytes)))


def _first(path: Path, count: int) -> bytes:
    """Return the first samples as bundles store them: (samples, 1, ...), each with its batch dimension."""
    buffer = io.BytesIO()
    np.save(buffer, np.load(path)[:count, np.newaxis])
    return buffer.getvalue()


def _folder(artifact: Artifact) -> str:
    return f"{artifact.engine}-{artifact.scheme}"
