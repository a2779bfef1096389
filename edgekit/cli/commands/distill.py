"""``edgekit distill``."""

from __future__ import annotations

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
    StudentOptions,
    TeacherOptions,
    TrainingOptions,
)

# options of the student that are the teacher's, too, where it has none of its own
SHARED = ("custom_objects", "allow_pickle", "keep_layout", "layout")
PREPROCESSING = ("scale", "mean", "std")
TEACHER = tuple(f"teacher_{name}" for name in ("weights", "input_shape", *PREPROCESSING))


@click.command(context_settings={"max_content_width": 100})
@click.option("--teacher", required=True, metavar="MODEL", help="The model to learn from, of any supported kind.")
@click.option("--student", required=True, metavar="MODEL", help="The model to train: .keras, .h5 or FILE.py:function.")
@options_of(OutputOptions, "output", text={"output": "The trained student.  [default: STUDENT's name with -distilled]"})
@options_of(TrainingOptions)
@options_of(DataOptions, "evaluate", "metric")
@options_of(ModelInput, omit=("model", "name"))
@options_of(DataOptions, "layout")
@options_of(PreprocessingOptions)
@options_of(ModelInput, "weights", prefix="teacher", text={"weights": "State dict for the teacher's FILE.py:function."})
@options_of(
    ModelInput, "input_shape", prefix="teacher", text={"input_shape": "The teacher's input shape, if it differs."}
)
@options_of(
    PreprocessingOptions,
    *PREPROCESSING,
    prefix="teacher",
    text={
        "scale": "The teacher's --scale, if it differs.",
        "mean": "The teacher's --mean; any of these three replaces all three.",
        "std": "The teacher's --std.",
    },
)
@options_of(ExecutionOptions, "cache")
@json_option
@quiet_option
def command(teacher: str, student: str, as_json: bool, quiet: bool, **typed: Any) -> None:
    """Train STUDENT on the outputs of TEACHER, and write it as a model of its own framework.

    Student and teacher may be of different frameworks. The teacher computes its outputs once for every sample and every
    augmented sample. Without labels, the student learns from these outputs alone. If the training is interrupted, the
    same command with --resume continues after the last finished epoch.

    \b
    Examples:
      edgekit distill --teacher big.keras --student small.keras --train images/ --epochs 20 -o student.keras
      edgekit distill --teacher big.tflite --student small.keras --train unlabelled.npz --augment flip --augment shift
      edgekit distill --teacher net.py:large --teacher-weights large.pth --student net.py:small \\
          --input-shape 1,3,32,32 --scale 0.00392156862745098 --train train.npz --evaluate test.npz -o student.pt2
      edgekit distill --teacher big.keras --student small.keras --train train.npz --quantize-aware int8 -o ready.keras
      edgekit distill --teacher big.onnx --student small.h5 --train train.npz --log-dir runs/1 --resume
    """
    from edgekit.training.distill import distill, plan_distill

    own = {name.removeprefix("teacher_"): typed.pop(name) for name in list(typed) if name in TEACHER}
    plan = plan_distill(build(StudentOptions, typed | {"model": student}), _teacher(teacher, own, typed))
    from edgekit.cli import terminal

    with terminal.progress(enabled=not quiet) as watch, epochs_kept():
        report = distill(plan, watch)
    click.echo(report.to_json(), nl=False) if as_json else terminal.show_distillation(report)


def _teacher(model: str, own: dict[str, Any], student: dict[str, Any]) -> TeacherOptions:
    """Return the teacher's options: its own, else the student's."""
    values = {name: student[name] for name in SHARED} | {"model": model, "weights": own["weights"]}
    preprocessing = own if any(own[name] not in (None, ()) for name in PREPROCESSING) else student
    values |= {name: preprocessing[name] for name in PREPROCESSING}
    values["input_shape"] = own["input_shape"]
    # other models declare their input shape
    if not own["input_shape"] and (model.endswith((".pt", ".pth", ".th")) or ".py:" in model):
        values["input_shape"] = student["input_shape"]
    return build(TeacherOptions, values)
