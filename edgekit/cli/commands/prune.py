"""``edgekit prune``."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import click

from edgekit.cli.model_options import (
    data_options,
    epochs_kept,
    evaluation_options,
    model_options,
    pruning_options,
    report_option,
    run_options,
    training_options,
)
from edgekit.plan.options import Options


@click.command(context_settings={"max_content_width": 100})
@click.argument("model")
@click.option("-o", "--output", metavar="OUT", help="The model to write.  [default: MODEL's name with -pruned]")
@pruning_options
@training_options
@click.option("--calibrate", metavar="DATA", help="Data without labels: mends, scores, and quantizes to be timed.")
@evaluation_options
@model_options
@click.option("--device", "-d", multiple=True, metavar="NAME", help="Time it in what this device runs.")
@click.option(
    "--quantize",
    "-q",
    multiple=True,
    metavar="SCHEME",
    help="Time and size it in this scheme.  [default: int8-static where there are data, else float32]",
)
@click.option("--samples", type=int, metavar="N", help="Use at most N calibration samples.")
@data_options
@report_option
@run_options
def command(as_json: bool, quiet: bool, **options: Any) -> None:
    """Cut the channels, neurons and heads of MODEL that matter least, recover, and write an ordinary smaller model.

    MODEL is .keras, .h5 or FILE.py:function. With --train it is trained after the cut, to answer as the dense model
    does; with --calibrate alone its layers are mended from samples without labels. A goal of latency or size holds as
    measured: the whole pruned model is quantized and timed against the dense one before it is trained.

    With --sparsity single weights become zero, which makes the file smaller once it is compressed, and no call faster;
    the report has what was measured.

    \b
    Examples:
      edgekit prune model.keras --prune-to latency=0.5 --train train.npz --epochs 20 --evaluate test.npz
      edgekit prune net.py:build --weights best.pth --input-shape 1,3,32,32 --prune 0.5 --train train.npz -o small.pt2
      edgekit prune model.h5 --prune-to size=0.7 --calibrate images/ --keep 'block1*' --round-to 16
      edgekit prune model.keras --prune-to macs=0.3 --rounds 3 --train train.npz --augment flip --augment shift
      edgekit prune model.keras --prune-to latency=0.6 --train train.npz --latency-table pi.json
      edgekit prune model.keras --prune 0.5 --train train.npz --quantize-aware int8
      edgekit prune model.keras --sparsity 0.8 --train train.npz --epochs 20 --evaluate test.npz
    """
    from edgekit.cli import terminal
    from edgekit.pruning.command import plan, prune

    made = plan(Options(**{name: value for name, value in options.items() if value is not None}))
    with terminal.progress(enabled=not quiet) as watch, epochs_kept() if made.pruning.training else nullcontext():
        report = prune(made, watch)
    click.echo(report.to_json(), nl=False) if as_json else terminal.show_pruning(report)
