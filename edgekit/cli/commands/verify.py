"""``edgekit verify``."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import click

from edgekit.cli.run_options import COUNT, engine_options, sentence
from edgekit_runtime import __main__ as runtime


@click.command()
@click.argument("bundle")
@engine_options(COUNT)
@click.option("--files-only", is_flag=True, help=f"{sentence(runtime.FILES_ONLY_HELP)}.")
@click.option("--json", is_flag=True, help="Print JSON.")
def command(**options: Any) -> None:
    """Verify BUNDLE on this machine: the digest of every file, and the outputs of every variant.

    The exit code is 0 if all variants that can run here give the outputs recorded in the bundle.

    \b
    Examples:
      edgekit verify model.edgekit
      edgekit verify model.edgekit --key release.pub.pem --files-only
    """
    runtime.verify(Namespace(**options))
