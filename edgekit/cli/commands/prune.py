"""``edgekit prune``."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import click

from edgekit.cli.model_options import epochs_kept, json_option, options_of, quiet_option
from edgekit.plan.option_declaration import build
from edgekit.plan.options import (
    DataOptions,
    ExecutionOptions,
    ModelInput,
    OutputOptions,
    PreprocessingOptions,
    PruneOptions,
    PruningOptions,
    TargetOptions,
    TrainingOptions,
)


@click.command(context_settings={"max_content_width": 100})
@click.argument("model")
@options_of(OutputOptions, "output", text={"output": "The model file to write.  [default: MODEL's name with -pruned]"})
@options_of(PruningOptions)
@options_of(TrainingOptions)
@options_of(
    DataOptions,
    omit=("layout",),
    integers=("samples",),
    text={
        "calibrate": "Data without labels: for importance, reconstruction and quantization.",
        "samples": "Use at most N calibration samples.",
    },
)
@options_of(ModelInput, omit=("model", "name"))
@options_of(
    TargetOptions,
    "device",
    "quantize",
    text={
        "device": "Measure latency in the format that this device runs.",
        "quantize": "Measure latency and size in this scheme.  [default: int8-static with data, else float32]",
    },
)
@options_of(DataOptions, "layout")
@options_of(PreprocessingOptions)
@options_of(OutputOptions, "report")
@options_of(ExecutionOptions, "cache")
@json_option
@quiet_option
def command(as_json: bool, quiet: bool, **typed: Any) -> None:
    """Remove the least important channels, neurons and heads of MODEL, fine-tune it, and write a smaller model.

    MODEL is .keras, .h5 or FILE.py:function. With --train the pruned model is trained on the outputs of the original.
    With --calibrate alone its layers are fitted to their earlier outputs, without labels. A goal of latency or size is
    measured: the pruned model is quantized and timed in turns with the original before it is trained.

    --sparsity sets single weights to zero. That makes the compressed file smaller, but not the model faster; the report
    has the measurements.

    \b
    Examples:
      edgekit prune model.keras --prune-to latency=0.5 --train train.npz --epochs 20 --evaluate test.npz
      edgekit prune net.py:build --weights best.pth --input-shape 1,3,32,32 --prune 0.5 --train train.npz -o small.pt2
      edgekit prune model.h5 --prune-to size=0.7 --calibrate images/ --exclude-layer 'block1*' --round-to 16
      edgekit prune model.keras --prune-to macs=0.3 --rounds 3 --train train.npz --augment flip --augment shift
      edgekit prune model.keras --prune-to latency=0.6 --train train.npz --latency-table pi.json
      edgekit prune model.keras --prune 0.5 --train train.npz --quantize-aware int8
      edgekit prune model.keras --sparsity 0.8 --train train.npz --epochs 20 --evaluate test.npz
    """
    from edgekit.pruning.command import plan_prune, prune

    plan = plan_prune(build(PruneOptions, typed))
    from edgekit.cli import terminal

    with terminal.progress(enabled=not quiet) as watch, epochs_kept() if plan.pruning.training else nullcontext():
        report = prune(plan, watch)
    click.echo(report.to_json(), nl=False) if as_json else terminal.show_pruning(report)
