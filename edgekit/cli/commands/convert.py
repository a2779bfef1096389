"""``edgekit convert``."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from edgekit.cli.dry_run import describe, text
from edgekit.cli.model_options import epochs_kept, json_option, options_of, quiet_option
from edgekit.plan.option_declaration import build, by_name
from edgekit.plan.options import (
    BudgetOptions,
    ConversionOptions,
    DataOptions,
    ExecutionOptions,
    ModelInput,
    OutputOptions,
    PostprocessingOptions,
    PreprocessingOptions,
    PruningOptions,
    TargetOptions,
    TrainingOptions,
)
from edgekit.plan.plan_file import read_plan
from edgekit.pruning.options import plan_pruned_conversion


@click.command(context_settings={"max_content_width": 100})
@click.argument("model", required=False)
@options_of(OutputOptions, "output", text={"output": "The bundle to write.  [default: MODEL's name with .edgekit]"})
@options_of(ModelInput, omit=("model", "name"))
@options_of(TargetOptions, omit=("auto_fix",))
@options_of(DataOptions, omit=("layout",))
@options_of(BudgetOptions)
@options_of(ExecutionOptions, omit=("cache",))
@options_of(DataOptions, "layout")
@options_of(PreprocessingOptions)
@options_of(PruningOptions)
@options_of(TrainingOptions)
@options_of(PostprocessingOptions)
@options_of(ModelInput, "name")
@options_of(OutputOptions, omit=("output",))
@click.option(
    "--plan", "plan_file", metavar="FILE.toml", help="Read options from a file; the command line takes precedence."
)
@options_of(TargetOptions, "auto_fix")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@options_of(ExecutionOptions, "cache")
@json_option
@quiet_option
def command(plan_file: str | None, dry_run: bool, as_json: bool, quiet: bool, **typed: Any) -> None:
    """Convert MODEL into a verified bundle.

    MODEL is .keras, .h5, a SavedModel folder, .pt2, FILE.py:function, .onnx, .xml or .tflite.

    \b
    Examples:
      edgekit convert model.keras -o model.edgekit
      edgekit convert model.h5 -q int8 --calibrate images/ --resize 224,224 --scale 0.0078431 --mean 1
      edgekit convert net.py:build --weights best.pth --input-shape 1,3,224,224 -d raspberry-pi-5 -d intel-cpu
      edgekit convert model.keras -q int8 --calibrate train.npz --evaluate test.npz --max-drop 0.01
      edgekit convert model.keras -q auto --calibrate train.npz --evaluate test.npz --max-drop 0.01 --max-latency-ms 20
      edgekit convert model.keras -q auto --calibrate train.npz --evaluate test.npz --ray 10.0.0.1:6379
      edgekit convert model.keras -q int8 --calibrate images/ --samples auto
      edgekit convert model.keras --prune-to latency=0.5 --train train.npz -q auto --evaluate test.npz -d raspberry-pi-5
      edgekit convert model.keras -q int8 --calibrate c.npz --train train.npz --epochs 5 --quantize-aware int8
      edgekit convert model.keras --recipe recipe.toml --calibrate train.npz --evaluate test.npz
      edgekit convert model.keras --labels classes.txt --activation softmax --top 3
      edgekit convert yolov8n.onnx --boxes output0 --box-format cxcywh --labels coco.txt --iou 0.7
      edgekit convert yolo.onnx -q int8 --calibrate images/ --evaluate val.npz --metric score.py:mean_precision
    """
    from_file = read_plan(Path(plan_file)) if plan_file else {}
    options = build(ConversionOptions, from_file | by_name(ConversionOptions, typed))
    plan, pruning = plan_pruned_conversion(options)
    if dry_run:
        described = describe(plan, pruning)
        click.echo(json.dumps(described, indent=2) if as_json else text(described))
        return
    from edgekit.cli import terminal
    from edgekit.pipeline import convert

    training = pruning and pruning.training
    with terminal.progress(enabled=not quiet) as watch, epochs_kept() if training else nullcontext():
        report = convert(plan, watch, pruning)
    click.echo(report.to_json(), nl=False) if as_json else terminal.show_report(report)
