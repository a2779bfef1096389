"""``edgekit package``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgekit.package import FORMATS, package
from edgekit.package.request import make_request


@click.command(context_settings={"max_content_width": 100})
@click.argument("bundle", required=False)
@click.option(
    "--format",
    "-f",
    "kind",
    type=click.Choice(list(FORMATS)),
    metavar="FORMAT",
    help="Package format; --list shows all.",
)
@click.option("--output", "-o", metavar="OUT", help="File to write; for some formats a folder.")
@click.option("--list", "listing", is_flag=True, help="List the formats with their options and programs.")
@click.option("--compatible", multiple=True, metavar="NAME", help="Name of the boards it is for; repeatable.")
@click.option("--key", type=click.Path(path_type=Path), metavar="KEY.pem", help="Private key that signs the package.")
@click.option("--cert", type=click.Path(path_type=Path), metavar="CERT.pem", help="Certificate of that key.")
@click.option("--name", metavar="NAME", help="Name of the package.  [default: from the model]")
@click.option("--version", metavar="VERSION", help="Version of the package.  [default: from the model]")
@click.option("--store", metavar="DIR", help="Store on the board.  [default: /var/lib/edgekit/NAME]")
@click.option("--path", metavar="PATH", help="Path of the bundle on the board.")
@click.option("--slot", metavar="CLASS", help="rauc: slot class for the image.  [default: model]")
@click.option("--repository", metavar="REPO", help="rauc 1.13 and newer: artifact repository, instead of a slot.")
@click.option("--variant", metavar="NAME", help="c-array: variant to write.  [default: the smallest .tflite]")
@click.option("--systemd", is_flag=True, help="deb: add a unit that checks the model when the board starts.")
@click.option(
    "--board-files", metavar="DIR", help="Also write the files that a board needs once to install such packages."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(bundle: str | None, kind: str | None, output: str | None, **options: Any) -> None:
    """Package BUNDLE for an updater, a distribution, a registry or a microcontroller.

    The same bundle gives the same bytes, except for random signatures. SOURCE_DATE_EPOCH sets the date of the files.

    \b
    Examples:
      edgekit package --list
      edgekit package model.edgekit --format deb -o model.deb
      edgekit package model.edgekit --format rauc -o model.raucb --compatible cam-2 --key key.pem --cert cert.pem
      edgekit package model.edgekit --format swupdate -o model.swu --compatible cam:2.0 --key key.pem --cert cert.pem
      edgekit package model.edgekit --format mender -o model.mender --compatible cam-2 --board-files overlay/
    """
    as_json = options.pop("as_json")
    if options.pop("listing"):
        _list(as_json=as_json)
        return
    if bundle is None or kind is None or output is None:
        raise click.UsageError("give BUNDLE, --format and --output; `edgekit package --list` shows the formats")
    board = options.pop("board_files")
    request = make_request(bundle, **{name: value for name, value in options.items() if value})
    written = package(kind, request, output, board)
    if as_json:
        click.echo(json.dumps(asdict(written), indent=2))
        return
    click.echo(f"{written.path}  {written.format}  {written.name} {written.version}  {written.size_bytes:,} bytes")
    for note in written.notes:
        click.echo(f"note: {note}")


def _list(*, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({name: asdict(each) for name, each in FORMATS.items()}, indent=2))
        return
    for name, each in FORMATS.items():
        click.echo(f"{name:<10} {each.description}")
        required = " ".join(f"--{option}" for option in each.required)
        optional = " ".join(f"--{option}" for option in each.options if option not in each.required)
        click.echo(
            f"{'':<10} "
            + "; ".join(filter(None, [required and f"requires {required}", optional and f"accepts {optional}"]))
        )
        if each.programs:
            click.echo(f"{'':<10} calls {', '.join(each.programs)}")
