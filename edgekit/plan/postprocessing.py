"""The postprocessing that a bundle declares: from the options, else from class names and the values of the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekit.plan.options import PostprocessingOptions
from edgekit_runtime.errors import DataError, PlanError
from edgekit_runtime.format.consistency import postprocessing_problems
from edgekit_runtime.format.manifest import OutputSpec, Postprocessing

BOXES_THRESHOLD, BOXES_TOP = 0.25, 100  # a detector gives thousands of boxes, most of them background
MIN_NUMBERS = 5  # of a box with one class score
PROBABILITY_TOLERANCE = 1e-3  # for rounding and quantization


def requested(options: PostprocessingOptions) -> PostprocessingOptions | None:
    """Check which options go together; return None where none is given.

    Raises:
        PlanError: an option for boxes is given without the output that has them, or without their format.
    """
    if options == PostprocessingOptions():
        return None
    if options.boxes is None and (options.box_format is not None or options.iou is not None):
        raise PlanError("--box-format and --iou go with --boxes OUTPUT, which names the output with the boxes")
    if options.boxes is not None and options.box_format is None:
        raise PlanError("--boxes needs --box-format: xyxy or yxyx for two corners, cxcywh for centre and size (YOLO)")
    return options


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the class names of a text file, one per line.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--labels {path}: cannot be read as text, one label per line ({error})") from error


def declare(options: PostprocessingOptions, outputs: Sequence[OutputSpec], names: int) -> Postprocessing:
    """Return the declaration of the manifest, with defaults for options that are not given.

    Args:
        options: from :func:`requested`.
        outputs: of the model.
        names: number of class names; 0 if unknown.

    Raises:
        PlanError: the outputs of the model do not fit the options.
    """
    scores = options.scores or _scores(options, outputs)
    shapes = {output.name: output.shape for output in outputs}
    boxes_last = options.boxes is not None and _boxes_last(shapes.get(scores, ()), shapes.get(options.boxes, ()), names)
    given = {key: value for key, value in vars(options).items() if value is not None}
    bounds = {"threshold": BOXES_THRESHOLD, "top": BOXES_TOP} if options.boxes is not None else {}
    declared = Postprocessing(**{**bounds, **given, "scores": scores, "boxes_last": boxes_last})
    for where, problem in postprocessing_problems(outputs, declared):
        there = ", ".join(f"{output.name} {output.dtype} {list(output.shape)}" for output in outputs)
        raise PlanError(f"--{where.rpartition('.')[2].replace('_', '-')}: {problem}; the model's outputs: {there}")
    return declared


def _scores(options: PostprocessingOptions, outputs: Sequence[OutputSpec]) -> str:
    """Return the output with the scores, if there is only one besides the boxes."""
    left = [output.name for output in outputs if output.name != options.boxes] or [output.name for output in outputs]
    if len(left) > 1:
        raise PlanError(f"--scores: name the output with the class scores: {', '.join(left)}")
    return left[0]


def _boxes_last(scores: tuple[int, ...], boxes: tuple[int, ...], names: int) -> bool:
    """Tell whether boxes are along the last axis, by the size of the other axis: four numbers, or numbers and scores.

    In an output with both, the number of class names identifies the axis; without names it is the shorter one.
    """
    if len(scores) < 2 or len(boxes) < 2:
        return False  # refused later in any case
    if scores != boxes:
        return boxes[-1] != 4 and boxes[-2] == 4
    if names and names + 4 in boxes[-2:]:
        return boxes[-1] != names + 4
    return boxes[-1] < MIN_NUMBERS or MIN_NUMBERS <= boxes[-2] < boxes[-1]


def suggest(output: OutputSpec, computed: Path) -> tuple[Postprocessing | None, tuple[str, ...]]:
    """Declare class scores if the values are probabilities; otherwise return a note.

    Args:
        output: with class names.
        computed: ``.npy`` with its values for some samples.
    """
    values = np.load(computed)
    if (
        output.dtype.startswith("float")
        and values.min() >= -PROBABILITY_TOLERANCE
        and values.max() <= 1 + PROBABILITY_TOLERANCE
    ):
        return Postprocessing(output.name), ()
    return None, (
        f"the values of {output.name!r} are not probabilities, so the bundle declares no postprocessing: "
        "--activation softmax (or sigmoid) turns them into scores",
    )
