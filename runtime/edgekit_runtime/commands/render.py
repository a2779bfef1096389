"""Describe a bundle, its placement and its results in lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgekit_runtime.commands.verify import VariantResult
    from edgekit_runtime.format.manifest import (
        InputSpec,
        Manifest,
        OutputSpec,
        Postprocessing,
        Preprocessing,
        Requirements,
        Variant,
    )
    from edgekit_runtime.inference.postprocess import Answer
    from edgekit_runtime.placement.load_options import Event
    from edgekit_runtime.placement.place import Placement
    from edgekit_runtime.tensors import Array


def manifest_lines(manifest: Manifest) -> Iterator[str]:
    """Describe the bundle."""
    yield f"{manifest.model_name} {manifest.model_version}"
    yield from (f"  input    {_input(spec)}" for spec in manifest.inputs)
    yield from (f"  output   {_output(spec)}" for spec in manifest.outputs)
    if manifest.postprocessing is not None:
        yield f"  answers  {_postprocessing(manifest.postprocessing)}"
    files = {record.path: record for record in manifest.files}
    for variant in manifest.variants:
        size_bytes = sum(files[path].size_bytes for path in variant.files)
        encrypted = ", encrypted" if any(files[path].encryption for path in variant.files) else ""
        yield f"  variant  {_variant(variant)}  {size_bytes:,} bytes{encrypted}"
        if needs := ", ".join(_needs(variant.requirements, variant.engine)):
            yield f"           needs {needs}"
    if manifest.devices:
        yield f"  devices  {', '.join(str(device['name']) for device in manifest.devices)}"
    if manifest.calibration:
        samples, digest = (_plain(manifest.calibration.get(key)) for key in ("samples", "sha256"))
        yield f"  data     calibrated on {samples} samples, sha256 {digest}"
    if manifest.versions:
        yield f"  made by  {', '.join(f'{name} {version}' for name, version in manifest.versions.items())}"


def _input(spec: InputSpec) -> str:
    parts = [f"{spec.name}  {spec.dtype} {list(spec.shape)}"]
    parts += [spec.layout] if spec.layout else []
    parts += [_preprocessing(spec.preprocessing)] if spec.preprocessing else []
    return "  ".join(parts)


def _output(spec: OutputSpec) -> str:
    return f"{spec.name}  {spec.dtype} {list(spec.shape)}" + (f"  labels in {spec.labels}" if spec.labels else "")


def _preprocessing(steps: Preprocessing) -> str:
    """Return the formula without the steps that change nothing; x is the raw value."""
    formula = "x" if steps.scale == 1 else f"x * {steps.scale:.6g}"
    formula += f" - {_values(steps.mean)}" if any(steps.mean) else ""
    if any(value != 1 for value in steps.std):
        formula = f"({formula}) / {_values(steps.std)}" if " " in formula else f"x / {_values(steps.std)}"
    resized = f"resized to {steps.resize[0]}x{steps.resize[1]}, " if steps.resize else ""
    return resized + (f"as {formula}" if formula != "x" else "as it is")


def _postprocessing(declared: Postprocessing) -> str:
    """Describe the postprocessing in a line."""
    scores = declared.scores if declared.activation == "none" else f"{declared.activation} of {declared.scores}"
    bounds = f"at most {declared.top}, of {declared.threshold:g} or more"
    if declared.boxes is None:
        return f"classes by {scores}, {bounds}"
    overlap = f"overlapping by at most {declared.iou:g}"
    return f"boxes ({declared.box_format}) in {declared.boxes} by {scores}, {bounds}, {overlap}"


def _values(values: tuple[float, ...]) -> str:
    """Return one value, or the values of the channels; only the first of many."""
    shown = [f"{value:.6g}" for value in values[:4]] + (["..."] if len(values) > 4 else [])
    return shown[0] if len(shown) == 1 else f"[{', '.join(shown)}]"


def _needs(wanted: Requirements, engine: str) -> Iterator[str]:
    if wanted.arch:
        yield " or ".join(wanted.arch)
    if wanted.engine_version is not None:
        yield f"{engine} {wanted.engine_version} or newer"
    if wanted.memory_bytes is not None and wanted.memory_bytes >> 20:  # every board has 1 MiB
        yield f"{wanted.memory_bytes >> 20:,} MiB of memory"


def _plain(value: object) -> str:
    """Return the beginning of a value that the format does not check, without control characters."""
    return "".join(filter(str.isprintable, str(value)[:12]))


def _variant(variant: Variant) -> str:
    where = f"{variant.engine}:{variant.device}" + (f" ({variant.delegate})" if variant.delegate else "")
    accuracy = variant.accuracy
    measured = f"  accuracy {accuracy.value:.4f} (drop {accuracy.drop:+.4f})" if accuracy else ""
    return f"{variant.name}  {where}  {variant.scheme}{measured}"


def selection_lines(placement: Placement) -> Iterator[str]:
    """Describe the selected variant, and why the others were not selected."""
    versions = ", ".join(f"{name} {version}" for name, version in placement.versions.items())
    yield f"runs {placement.variant} on {placement.engine}:{placement.device} ({versions})"
    for refusal in placement.refused:
        yield f"  not {refusal.variant}: {refusal.reason}"


def placement_lines(placement: Placement) -> Iterator[str]:
    """Describe the placement in full, with the differences from the golden outputs."""
    yield from selection_lines(placement)
    if placement.delegate is not None and placement.delegated is not None:
        yield f"  {placement.delegate} took {placement.delegated[0]} of {placement.delegated[1]} operators"
    precision, threads = placement.precision or "its own precision", placement.threads or "its own number of"
    yield f"  computes in {precision}, {threads} thread{'' if threads == 1 else 's'}"
    for name, path in placement.libraries.items():
        yield f"  {name} is {path}"
    if placement.probe is not None:
        yield f"  probe: {placement.probe.verdict}{' (earlier)' if placement.probe.remembered else ''}"
    for difference in placement.checked:
        yield f"  {difference}"


def event_line(event: Event) -> str:
    """Describe the variant that was lost, and the one that runs instead."""
    lost = event.lost + (f" with {event.delegate}" if event.delegate else "")
    return f"lost {lost}: {event.reason}; now {event.now or 'nothing'} runs"


def signature_lines(signed_by: str | None) -> Iterator[str]:
    """Name the key whose signature was verified, if a signature was required."""
    if signed_by is not None:
        yield f"signed by the trusted key {signed_by[:16]}"


def verify_lines(results: tuple[VariantResult, ...]) -> Iterator[str]:
    """Describe the result of every variant."""
    for result in results:
        name = result.variant + (f" ({result.delegate})" if result.delegate else "")
        yield f"{name}: {result.state}" + (f": {result.reason}" if result.reason else "")
        for difference in result.checked:
            yield f"  {difference}"


def top_labels(output: Array, labels: tuple[str, ...], count: int) -> list[dict[str, Any]]:
    """Return the ``count`` largest values of the first row, largest first; equal values in the order of the index."""
    values = output.reshape(-1, output.shape[-1])[0]  # (classes,)
    best = np.argsort(-values.astype(np.float64), kind="stable")[:count]
    return [{"index": int(i), "label": labels[i], "value": float(values[i])} for i in best]


def output_record(output: Array, labels: tuple[str, ...], count: int) -> dict[str, Any]:
    """Describe an output for JSON: the best labels if it has labels, else its first ``count`` values."""
    record: dict[str, Any] = {"shape": list(output.shape), "dtype": output.dtype.name}
    if labels and output.shape[-1] == len(labels):  # else the axis is not that of the classes, but of boxes
        return {**record, "top": top_labels(output, labels, count)}
    first = output.reshape(-1)[:count].tolist()
    return {**record, "min": output.min().item(), "max": output.max().item(), "first": first}


def answer_lines(answers: Sequence[Answer]) -> Iterator[str]:
    """Describe the classes or boxes of a call, the best first."""
    yield "answers" if answers else "answers: none"
    for answer in answers:
        place = (
            "" if answer.box is None else "  top {:.4g}, left {:.4g}, bottom {:.4g}, right {:.4g}".format(*answer.box)
        )
        yield f"  {answer.score:10.4f}  {answer.label} ({answer.index}){place}"


def output_lines(name: str, record: dict[str, Any]) -> Iterator[str]:
    """Describe an output in lines of text."""
    yield f"{name}  {record['dtype']} {record['shape']}"
    for best in record.get("top", ()):
        yield f"  {best['value']:10.4f}  {best['label']} ({best['index']})"
    if "first" in record:
        values = ", ".join(f"{value:.6g}" for value in record["first"])
        yield f"  min {record['min']:.6g}  max {record['max']:.6g}  first {values}"
