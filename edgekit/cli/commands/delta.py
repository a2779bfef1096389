"""``edgekit delta``."""

from __future__ import annotations

import click

from edgekit.cli.write_errors import writing
from edgekit_runtime.store.delta.codec import CODECS


@click.command(context_settings={"max_content_width": 100})
@click.argument("old")
@click.argument("new")
@click.option("--output", "-o", required=True, metavar="FILE", help="File to write, such as 1.2-to-1.3.delta.")
@click.option(
    "--codec",
    type=click.Choice(list(CODECS)),
    default="zstd",
    show_default=True,
    help="Compression; zlib works on boards without the package zstandard.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="Do not show progress.")
def command(old: str, new: str, output: str, codec: str, as_json: bool, quiet: bool) -> None:
    """Write a delta that updates boards from the bundle OLD to the bundle NEW.

    `python -m edgekit_runtime install` accepts a delta instead of a bundle. The result is byte for byte NEW, including
    its signature. A board without OLD in its store refuses the delta, or installs the whole bundle given with --full.

    If the delta is hardly smaller than the bundle, a message on standard error advises to send the bundle. The exit
    code is 0.

    \b
    Examples:
      edgekit delta model-1.2.edgekit model-1.3.edgekit -o 1.2-to-1.3.delta
      edgekit delta old.edgekit new.edgekit -o x.delta --codec zlib --json
      python -m edgekit_runtime install 1.2-to-1.3.delta /var/lib/edgekit/camera --full model-1.3.edgekit
    """
    from edgekit.bundle.delta import make_delta
    from edgekit.cli import terminal

    with writing(output), terminal.progress(enabled=not quiet) as watch:
        report = make_delta(old, new, output, codec=codec, watch=watch)
    if as_json:
        click.echo(report.to_json(), nl=False)
        return
    for file in report.files:
        sizes = f"{file.size_bytes:,} bytes, {file.reused:.0%} reused, {file.delta_bytes:,} sent"
        click.echo(f"  {file.path}  {sizes}")
    sizes = f"{report.delta_bytes:,} bytes, {report.share:.1%} of the bundle's {report.bundle_bytes:,}"
    click.echo(f"{report.path}  {sizes}")
    if report.pointless:
        click.echo(f"pointless: {report.pointless}", err=True)
