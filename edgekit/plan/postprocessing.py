"""What a bundle says its outputs mean: as it was asked for, else what class names and the values themselves tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.plan.options import POSTPROCESSING_KEYS, Options
from edgekit_runtime.errors import PlanError
from edgekit_runtime.format.consistency import postprocessing_problems
from edgekit_runtime.format.manifest import OutputSpec, Postprocessing
from edgekit_runtime.inference.postprocess import ACTIVATIONS, BOX_FORMATS

BOXES_THRESHOLD, BOXES_TOP = 0.25, 100  # of a detector there are thousands of boxes, and nearly all are nothing
LEAST_NUMBERS = 5  # of a box with the score of one class
NEARLY = 1e-3  # how far a probability may be off: quantized, or rounded


@dataclass(frozen=True)
class PostprocessingOptions:
    """What was asked for; None is what was not."""

    scores: str | None
    activation: str | None
    threshold: float | None
    top: int | None
    boxes: str | None
    box_format: str | None
    iou: float | None


def asked(options: Options) -> PostprocessingOptions | None:
    """Read the options; None where nothing was asked for.

    Raises:
        PlanError: a value is out of its range, or an option for boxes came without them.
    """
    wish = PostprocessingOptions(*(getattr(options, key) for key in POSTPROCESSING_KEYS))
    if wish == PostprocessingOptions(*[None] * len(POSTPROCESSING_KEYS)):
        return None
    for option, value, known in (
        ("--activation", wish.activation, ACTIVATIONS),
        ("--box-format", wish.box_format, BOX_FORMATS),
    ):
        if value is not None and value not in known:
            raise PlanError(f"{option} {value}: {', '.join(known)}")
    if wish.threshold is not None and not math.isfinite(wish.threshold):
        raise PlanError(f"--threshold {wish.threshold}: a number, such as 0.25")
    if wish.top is not None and not 1 <= wish.top <= 1 << 16:
        raise PlanError(f"--top {wish.top}: 1 to {1 << 16}")
    if wish.iou is not None and not 0 <= wish.iou <= 1:
        raise PlanError(f"--iou {wish.iou}: 0 to 1, such as 0.5")
    if wish.boxes is None and (wish.box_format is not None or wish.iou is not None):
        raise PlanError("--box-format and --iou are for --boxes OUTPUT, which says where the boxes are")
    if wish.boxes is not None and wish.box_format is None:
        raise PlanError("--boxes needs --box-format: xyxy or yxyx for two corners, cxcywh for centre and size (YOLO)")
    return wish


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
