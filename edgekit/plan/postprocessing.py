"""What a bundle says its outputs mean: as it was asked for, else what class names and the values themselves tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekit.plan.options import PostprocessingOptions
from edgekit_runtime.errors import DataError, PlanError
from edgekit_runtime.format.consistency import postprocessing_problems
from edgekit_runtime.format.manifest import OutputSpec, Postprocessing

BOXES_THRESHOLD, BOXES_TOP = 0.25, 100  # of a detector there are thousands of boxes, and nearly all are nothing
LEAST_NUMBERS = 5  # of a box with the score of one class
NEARLY = 1e-3  # how far a probability may be off: quantized, or rounded


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


def declare(wish: PostprocessingOptions, outputs: Sequence[OutputSpec], names: int) -> Postprocessing:
    """Return what the manifest says, with everything in it that was left open.

    Args:
        wish: what was asked for.
        outputs: the model's.
        names: how many class names there are; 0 where that is not known.

    Raises:
        PlanError: the model's outputs are not such.
    """
    scores = wish.scores or _scores(wish, outputs)
    shapes = {output.name: output.shape for output in outputs}
    boxes_last = wish.boxes is not None and _boxes_last(shapes.get(scores, ()), shapes.get(wish.boxes, ()), names)
    given = {key: value for key, value in vars(wish).items() if value is not None}
    bounds = {"threshold": BOXES_THRESHOLD, "top": BOXES_TOP} if wish.boxes is not None else {}
    declared = Postprocessing(**{**bounds, **given, "scores": scores, "boxes_last": boxes_last})
    for where, problem in postprocessing_problems(outputs, declared):
        there = ", ".join(f"{output.name} {output.dtype} {list(output.shape)}" for output in outputs)
        raise PlanError(f"--{where.rpartition('.')[2].replace('_', '-')}: {problem}; the model's outputs: {there}")
    return declared


def _scores(wish: PostprocessingOptions, outputs: Sequence[OutputSpec]) -> str:
    """The output that the scores must be in: the only one, or the only one beside the boxes."""
    left = [output.name for output in outputs if output.name != wish.boxes] or [output.name for output in outputs]
    if len(left) > 1:
        raise PlanError(f"--scores: say which output has a score a class: {', '.join(left)}")
    return left[0]


def _boxes_last(scores: tuple[int, ...], boxes: tuple[int, ...], names: int) -> bool:
    """Whether boxes lie along the last axis: with four numbers each, or in one output with scores, by its size.

    There the class names tell which axis is that of the numbers; without them it is the shorter one with room for them.
    """
    if len(scores) < 2 or len(boxes) < 2:
        return False  # which is refused, whichever way it is
    if scores != boxes:
        return boxes[-1] != 4 and boxes[-2] == 4
    if names and names + 4 in boxes[-2:]:
        return boxes[-1] != names + 4
    return boxes[-1] < LEAST_NUMBERS or LEAST_NUMBERS <= boxes[-2] < boxes[-1]


def suggest(output: OutputSpec, computed: Path) -> tuple[Postprocessing | None, tuple[str, ...]]:
    """Declare the classes of an output that has names for them and gives probabilities; say so when it gives others.

    Args:
        output: whose classes have names.
        computed: what the source computed in it for some samples, an ``.npy``.
    """
    values = np.load(computed)
    if output.dtype.startswith("float") and values.min() >= -NEARLY and values.max() <= 1 + NEARLY:
        return Postprocessing(output.name), ()
    return None, (
        f"the values of {output.name!r} are no probabilities, so the bundle does not declare what they mean: "
        "--activation softmax (or sigmoid) makes scores of them",
    )
