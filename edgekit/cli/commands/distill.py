"""``edgekit distill``."""

from __future__ import annotations

from typing import Any

import click

from edgekit.cli.model_options import (
    Numbers,
    data_options,
    epochs_kept,
    evaluation_options,
    model_options,
    run_options,
    training_options,
)
from edgekit.plan.options import Options

SHARED = ("input_shape", "custom_objects", "allow_pickle", "keep_layout", "layout", "cache")
PREPROCESSING = ("scale", "mean", "std")


@click.command(context_settings={"max_content_width": 100})
@click.option("--teacher", required=True, metavar="MODEL", help="Who knows: any kind of model that edgekit opens.")
@click.option("--student", required=True, metavar="MODEL", help="Who learns: .keras, .h5 or FILE.py:function.")
@click.option("-o", "--output", metavar="OUT", help="The trained student.  [default: STUDENT's name with -distilled]")
@training_options
@evaluation_options
@model_options
@data_options
@click.option("--teacher-weights", metavar="FILE", help="State dict for the teacher's FILE.py:function.")
@click.option(
    "--teacher-input-shape", multiple=True, metavar="[NAME=]1,3,H,W", help="The teacher's, where it is another."
)
@click.option("--teacher-scale", type=float, metavar="S", help="The teacher's --scale, where it is another.")
@click.option("--teacher-mean", type=Numbers(float), help="Likewise; any of these three replaces all of them.")
@click.option("--teacher-std", type=Numbers(float), help="Likewise.")
@run_options
def command(as_json: bool, quiet: bool, **options: Any) -> None:
    """Train STUDENT to answer as TEACHER does, and write it as a file of its own framework.

    Student and teacher may be of different frameworks. The teacher answers every sample once, augmented ones too; where
    the data have no labels, its answers are all the student learns from. Interrupted, even by a kill, the same command
    with --resume goes on after the last epoch.

    \b
    Examples:
      edgekit distill --teacher big.keras --student small.keras --train images/ --epochs 20 -o student.keras
      edgekit distill --teacher big.tflite --student small.keras --train unlabelled.npz --augment flip --augment shift
      edgekit distill --teacher net.py:large --teacher-weights large.pth --student net.py:small \\
          --input-shape 1,3,32,32 --scale 0.00392156862745098 --train train.npz --evaluate test.npz -o student.pt2
      edgekit distill --teacher big.keras --student small.keras --train train.npz --quantize-aware int8 -o ready.keras
      edgekit distill --teacher big.onnx --student small.h5 --train train.npz --log-dir runs/1 --resume
    """
    from edgekit.cli import terminal
    from edgekit.training.distill import distill, plan

    given = {name: value for name, value in options.items() if value is not None}
    made = plan(_student(dict(given)), _teacher(given))
    with terminal.progress(enabled=not quiet) as watch, epochs_kept():
        report = distill(made, watch)
    click.echo(report.to_json(), nl=False) if as_json else terminal.show_distillation(report)


def _student(given: dict[str, Any]) -> Options:
    given["model"] = given.pop("student")
    return Options(
        **{name: value for name, value in given.items() if not name.startswith("teacher") or name == "teacher_share"}
    )


def _teacher(given: dict[str, Any]) -> Options:
    """The teacher's own options, and those it shares with the student."""
    model: str = given["teacher"]
    own = {name: given[f"teacher_{name}"] for name in PREPROCESSING if given.get(f"teacher_{name}") not in (None, ())}
    taken = own or {name: given[name] for name in PREPROCESSING if name in given}
    shared = {name: given[name] for name in SHARED if name in given}
    if given["teacher_input_shape"]:
        shared["input_shape"] = given["teacher_input_shape"]
    elif not model.endswith((".pt", ".pth", ".th")) and ".py:" not in model:
        shared.pop("input_shape", None)  # a model that says itself what it takes
    weights = {"weights": given["teacher_weights"]} if "teacher_weights" in given else {}
    return Options(model=model, **shared, **taken, **weights)
