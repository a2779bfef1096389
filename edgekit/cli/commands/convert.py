"""``edgekit convert``."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from edgekit.cli.dry_run import describe, text
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
from edgekit.plan.budget import OBJECTIVES
from edgekit.plan.options import AUTO, Options, read_plan
from edgekit.plan.plan import resolve
from edgekit.pruning.options import asked, with_calibration


class Count(click.ParamType[Any]):
    """A number, or ``auto``."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the text."""
        return value if value == AUTO else click.INT.convert(value, param, ctx)


@click.command(context_settings={"max_content_width": 100})
@click.argument("model", required=False)
@click.option("-o", "--output", metavar="OUT", help="The bundle to write.  [default: MODEL's name with .edgekit]")
@model_options
@click.option("--device", "-d", multiple=True, metavar="NAME", help="Device, or a path to a profile; repeatable.")
@click.option(
    "--quantize",
    "-q",
    multiple=True,
    metavar="SCHEME",
    help="float32, float16, int8-dynamic, int8-weights, int8-static (int8), int16x8-static, int4-weights; "
    "repeatable. Or auto.",
)
@click.option("--recipe", metavar="FILE.toml", help="How to quantize which layer; see `edgekit layers MODEL`.")
@click.option("--calibrate", metavar="DATA", help="Folder of images, .npz, .npy or FILE.py:function.")
@evaluation_options
@click.option("--max-drop", type=float, metavar="X", help="Refuse a bundle that loses more (absolute, such as 0.01).")
@click.option("--objective", type=click.Choice(OBJECTIVES), help="With -q auto: what is best.  [default: latency]")
@click.option("--max-latency-ms", type=float, metavar="MS", help="With -q auto: most a call may take here.")
@click.option("--max-size-mib", type=float, metavar="MIB", help="With -q auto: most an artifact may have.")
@click.option(
    "--budget-minutes", type=float, metavar="MIN", help="With -q auto: begin nothing new after.  [default: 20]"
)
@click.option(
    "--jobs", type=int, metavar="N", help="Worker processes an engine, to try and evaluate with.  [default: cores]"
)
@click.option("--ray", metavar="ADDRESS", help="Try and evaluate on a Ray cluster whose nodes share these files.")
@click.option(
    "--samples", type=Count(), metavar="N|auto", help="Most calibration samples; auto: until their ranges have settled."
)
@data_options
@pruning_options
@training_options
@click.option("--labels", metavar="FILE", help="Class names, one a line; the bundle names the best classes with them.")
@click.option("--scores", metavar="OUTPUT", help="Answers: the output with a score a class, where there are several.")
@click.option("--activation", type=click.Choice(["none", "softmax", "sigmoid"]), help="Answers: what makes the scores.")
@click.option("--threshold", type=float, metavar="X", help="Answers: least score.  [default: 0; of boxes 0.25]")
@click.option("--top", type=int, metavar="N", help="Answers: most classes or boxes.  [default: 5; of boxes 100]")
@click.option("--boxes", metavar="OUTPUT", help="Answers: the output with boxes; it may be that of the scores.")
@click.option("--box-format", type=click.Choice(["xyxy", "yxyx", "cxcywh"]), help="Answers: what a box's numbers are.")
@click.option("--iou", type=float, metavar="X", help="Answers: how far boxes of a class may overlap.  [default: 0.5]")
@click.option("--name", help="The model's name in the bundle.  [default: the file's]")
@click.option("--version", "version", help="The model's version in the bundle.  [default: 1]")
@report_option
@click.option("--plan", "plan_file", metavar="FILE.toml", help="Options from a file; the command line overrules it.")
@click.option(
    "--no-remedies",
    "remedies",
    flag_value=False,
    type=bool,
    default=None,
    help="Quantize the graph as it is: split no output, keep nothing in float.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@run_options
def command(plan_file: str | None, dry_run: bool, as_json: bool, quiet: bool, **options: Any) -> None:
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
    # what was not typed is None, (), or the False of a flag; a 0 was typed
    given = {name: value for name, value in options.items() if value is not None and value != () and value is not False}
    given |= {name: False for name in ("cache", "remedies") if options[name] is False}
    from_file = read_plan(Path(plan_file)) if plan_file else {}
    asked_for = Options(**(from_file | given))
    pruning = asked(asked_for)
    plan = resolve(with_calibration(asked_for))
    if dry_run:
        told = describe(plan, pruning)
        click.echo(json.dumps(told, indent=2) if as_json else text(told))
        return
    from edgekit.cli import terminal
    from edgekit.pipeline import convert

    training = pruning and pruning.training
    with terminal.progress(enabled=not quiet) as watch, epochs_kept() if training else nullcontext():
        report = convert(plan, watch, pruning)
    click.echo(report.to_json(), nl=False) if as_json else terminal.show_report(report)
