"""``edgekit preflight``."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from edgekit.fleet.inventory import read_inventory
from edgekit.fleet.preflight import Verdict, preflight, read_offer
from edgekit_runtime.errors import IncompatibleDevice

NAMED = 5  # boards of a group that are named


@click.command(context_settings={"max_content_width": 100})
@click.argument("bundle")
@click.option("--fleet", required=True, type=click.Path(path_type=Path), metavar="INVENTORY", help="What boards said.")
@click.option("--require", metavar="WHAT", help="Only an engine, device, scheme or variant of this name counts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: every board with every reason.")
def command(bundle: str, fleet: Path, require: str | None, as_json: bool) -> None:
    """Tell which boards of a fleet can run BUNDLE, which variant each takes, and why others cannot.

    INVENTORY is what `python -m edgekit_runtime doctor --json` printed on each board: a file of one, of a JSON list, of
    several one after the other, or a folder of such files. Nothing is sent to anybody. Ends with 6 when a board can run
    nothing.

    \b
    Examples:
      ssh cam-17 python3 -m edgekit_runtime doctor --json > fleet/cam-17.json
      edgekit preflight model.edgekit --fleet fleet/
      edgekit preflight model.edgekit --fleet fleet/ --require edgetpu --json
    """
    offer = read_offer(bundle)
    model = offer.manifest.model_name
    verdicts = preflight(offer, read_inventory(fleet), require)
    if as_json:
        click.echo(json.dumps({"model": model, "boards": [asdict(each) for each in verdicts]}, indent=2))
    else:
        for line in _lines(verdicts):
            click.echo(line)
    unable = [verdict.board for verdict in verdicts if not verdict.runs]
    if unable:
        raise IncompatibleDevice(
            f"{len(unable)} of {len(verdicts)} boards can run nothing of {model!r}: {_some(unable)}"
        )


def _lines(verdicts: list[Verdict]) -> Iterator[str]:
    """Boards of which the same is true stand together, those that can run nothing at last."""
    groups: dict[tuple[object, ...], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        groups[verdict.runs, verdict.refused, verdict.reason, verdict.warnings].append(verdict)
    for group in sorted(groups.values(), key=lambda group: (not group[0].runs, -len(group))):
        first = group[0]
        kinds = ", ".join(dict.fromkeys(f"{verdict.what} ({verdict.arch})" for verdict in group))
        yield f"{len(group)} x {first.runs[0] if first.runs else 'nothing'}: {_some([each.board for each in group])}"
        yield f"  boards     {kinds}"
        yield from [f"  refused    {first.reason}"] if first.reason else []
        yield from [f"  then       {', '.join(first.runs[1:])}"] if first.runs[1:] else []
        yield from (f"  cannot     {refused.variant}: {refused.reason}" for refused in first.refused)
        yield from (f"  warning    {warning}" for warning in first.warnings)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
