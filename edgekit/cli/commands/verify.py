"""``edgekit verify``."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import click

from edgekit.cli.run_options import COUNT, sentence, where
from edgekit_runtime import __main__ as runtime


@click.command()
@click.argument("bundle")
@where(COUNT)
@click.option("--files-only", is_flag=True, help=f"{sentence(runtime.FILES_ONLY_HELP)}.")
@click.option("--json", is_flag=True, help="Print JSON.")
def command(**options: Any) -> None:
    """Check BUNDLE on this machine: every digest, and every variant's numbers.

    Ends with 0 when all variants that can run here compute what they computed where the bundle was made.

    \b
    Examples:
      edgekit verify model.edgekit
      edgekit verify model.edgekit --key release.pub.pem --files-only
    """
    runtime.verify(Namespace(**options))
