"""``edgekit run``."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import click

from edgekit.cli.run_options import engine_options
from edgekit_runtime import __main__ as runtime


@click.command()
@click.argument("bundle")
@click.argument("input")
@click.option("--raw", is_flag=True, help="Preprocess arrays as well as images.")
@click.option("--top", type=click.IntRange(min=1), help="Print at most N classes, boxes or values.")
@click.option("--output", metavar="FILE", help="Write the outputs to a .npy or .npz file.")
@engine_options()
@click.option("--json", is_flag=True, help="Print JSON.")
def command(**options: Any) -> None:
    """Run BUNDLE on INPUT: an image, .npy or .npz.

    \b
    Examples:
      edgekit run model.edgekit cat.jpg
      edgekit run model.edgekit features.npy --require openvino --json
      edgekit run model.edgekit cat.jpg --delegate edgetpu --delegate-options usb --isolate 2
    """
    runtime.run(Namespace(**options))
