"""Say in plain lines what a bundle is, where it was placed, and what it answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgekit_runtime.manifest import Manifest, Variant
    from edgekit_runtime.place import Placement
    from edgekit_runtime.tensors import Array
    from edgekit_runtime.verify import Verdict


def manifest_lines(manifest: Manifest) -> Iterator[str]:
    """What the bundle says of itself."""
    yield f"{manifest.model_name} {manifest.model_version}"
    for side, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        for spec in specs:
            yield f"  {side:<8} {spec.name}  {spec.dtype} {list(spec.shape)}"
    sizes_bytes = {record.path: record.size_bytes for record in manifest.files}
    for variant in manifest.variants:
        yield f"  variant  {_variant(variant)}  {sum(sizes_bytes[path] for path in variant.files):,} bytes"
    if manifest.devices:
        yield f"  devices  {', '.join(str(device['name']) for device in manifest.devices)}"


def _variant(variant: Variant) -> str:
    where = f"{variant.engine}:{variant.device}" + (f" ({variant.delegate})" if variant.delegate else "")
    accuracy = variant.accuracy
    measured = f"  accuracy {accuracy.value:.4f} (drop {accuracy.drop:+.4f})" if accuracy else ""
    return f"{variant.name}  {where}  {variant.scheme}{measured}"


def taken_lines(placement: Placement) -> Iterator[str]:
    """What runs, and why nothing better does."""
    versions = ", ".join(f"{name} {version}" for name, version in placement.versions.items())
    yield f"runs {placement.variant} on {placement.engine}:{placement.device} ({versions})"
    for refusal in placement.refused:
        yield f"  not {refusal.variant}: {refusal.reason}"


def placement_lines(placement: Placement) -> Iterator[str]:
    """All that is known of what runs: how, on what, and how far its golden outputs were off here."""
    yield from taken_lines(placement)
    if placement.delegate is not None and placement.delegated is not None:
        yield f"  {placement.delegate} took {placement.delegated[0]} of {placement.delegated[1]} operators"
    precision, threads = placement.precision or "its own precision", placement.threads or "its own number of"
    yield f"  computes in {precision}, {threads} threads"
    for name, path in placement.libraries.items():
        yield f"  {name} is {path}"
    if placement.probe is not None:
        yield f"  probe: {placement.probe.verdict}{' (earlier)' if placement.probe.remembered else ''}"
    for difference in placement.checked:
        yield f"  {difference}"


def verdict_lines(verdicts: tuple[Verdict, ...]) -> Iterator[str]:
    """What became of every variant."""
    for verdict in verdicts:
        yield f"{verdict.variant}: {verdict.state}" + (f": {verdict.reason}" if verdict.reason else "")
        for difference in verdict.checked:
            yield f"  {difference}"


def top(output: Array, labels: tuple[str, ...], count: int) -> list[dict[str, Any]]:
    """The ``count`` largest of the first row's values, largest first; ties in the order of index."""
    values = output.reshape(-1, output.shape[-1])[0]  # (classes,)
    best = np.argsort(-values.astype(np.float64), kind="stable")[:count]
    return [{"index": int(i), "label": labels[i], "value": float(values[i])} for i in best]


def output_record(output: Array, labels: tuple[str, ...], count: int) -> dict[str, Any]:
    """What an output is, for programs: the best labels if it has labels, else its first ``count`` values."""
    record: dict[str, Any] = {"shape": list(output.shape), "dtype": output.dtype.name}
    if labels:
        return {**record, "top": top(output, labels, count)}
    first = output.reshape(-1)[:count].tolist()
    return {**record, "min": output.min().item(), "max": output.max().item(), "first": first}


def output_lines(name: str, record: dict[str, Any]) -> Iterator[str]:
    """What an output is, for people."""
    yield f"{name}  {record['dtype']} {record['shape']}"
    for best in record.get("top", ()):
        yield f"  {best['value']:10.4f}  {best['label']} ({best['index']})"
    if "first" in record:
        values = ", ".join(f"{value:.6g}" for value in record["first"])
        yield f"  min {record['min']:.6g}  max {record['max']:.6g}  first {values}"
