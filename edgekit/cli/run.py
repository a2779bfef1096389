"""``edgekit run``."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import click

from edgekit_runtime import __main__ as runtime


@click.command()
@click.argument("bundle")
@click.argument("input")
@click.option("--raw", is_flag=True, help="Preprocess arrays too; images always are.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="So many labels or values.")
@click.option("--output", metavar="FILE", help="Write the outputs to a .npy or .npz.")
@click.option("--device", default="auto", metavar="NAME", help="Prefer the variants of this device.")
@click.option("--require", metavar="WHAT", help="Only an engine, device, scheme or variant of this name.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the engine.")
@click.option("--json", is_flag=True, help="Print JSON.")
def command(**options: Any) -> None:
    """Run BUNDLE on INPUT: an image, .npy or .npz.

    \b
    Examples:
      edgekit run model.edgekit cat.jpg
      edgekit run model.edgekit features.npy --require openvino --json
    """
    runtime.run(Namespace(**options))
