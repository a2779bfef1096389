"""``edgekit preflight``."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from edgekit.fleet.inventory import read_inventory
from edgekit.fleet.preflight import BoardResult, preflight, read_bundle_summary
from edgekit_runtime.errors import IncompatibleDevice

MAX_NAMES = 5  # of boards that a line lists


@click.command(context_settings={"max_content_width": 100})
@click.argument("bundle")
@click.option("--fleet", required=True, type=click.Path(path_type=Path), metavar="INVENTORY", help="Doctor reports.")
@click.option("--require", metavar="NAME", help="Consider only variants of this engine, device, scheme or name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with all reasons for each board.")
def command(bundle: str, fleet: Path, require: str | None, as_json: bool) -> None:
    """Report which boards of a fleet can run BUNDLE, which variant each selects, and why others cannot.

    INVENTORY holds the output of `python -m edgekit_runtime doctor --json` of the boards: a file with one report, a
    JSON list or several reports in sequence, or a folder of such files. Nothing is sent to the boards. The exit code is
    6 if a board can run no variant.

    \b
    Examples:
      ssh cam-17 python3 -m edgekit_runtime doctor --json > fleet/cam-17.json
      edgekit preflight model.edgekit --fleet fleet/
      edgekit preflight model.edgekit --fleet fleet/ --require edgetpu --json
    """
    summary = read_bundle_summary(bundle)
    model = summary.manifest.model_name
    results = preflight(summary, read_inventory(fleet), require)
    if as_json:
        click.echo(json.dumps({"model": model, "boards": [asdict(each) for each in results]}, indent=2))
    else:
        for line in _lines(results):
            click.echo(line)
    unable = [result.board for result in results if not result.runs]
    if unable:
        raise IncompatibleDevice(
            f"{len(unable)} of {len(results)} boards can run no variant of {model!r}: {_names(unable)}"
        )


def _lines(results: list[BoardResult]) -> Iterator[str]:
    """Yield lines for groups of boards with the same result; boards that can run nothing come last."""
    groups: dict[tuple[object, ...], list[BoardResult]] = defaultdict(list)
    for result in results:
        groups[result.runs, result.refused, result.reason, result.warnings].append(result)
    for group in sorted(groups.values(), key=lambda group: (not group[0].runs, -len(group))):
        first = group[0]
        kinds = ", ".join(dict.fromkeys(f"{result.kind} ({result.arch})" for result in group))
        yield f"{len(group)} x {first.runs[0] if first.runs else 'nothing'}: {_names([each.board for each in group])}"
        yield f"  boards     {kinds}"
        yield from [f"  refused    {first.reason}"] if first.reason else []
        yield from [f"  then       {', '.join(first.runs[1:])}"] if first.runs[1:] else []
        yield from (f"  cannot     {refused.variant}: {refused.reason}" for refused in first.refused)
        yield from (f"  warning    {warning}" for warning in first.warnings)


def _names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
