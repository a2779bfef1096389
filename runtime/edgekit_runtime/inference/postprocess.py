"""Convert a model's outputs to classes or boxes, as the manifest declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Callable

import numpy as np

from edgekit_runtime.record import dataclass

if TYPE_CHECKING:
    from edgekit_runtime.format.manifest import Postprocessing
    from edgekit_runtime.tensors import Array


@dataclass(frozen=True)
class Answer:
    """A class, or a box with its class."""

    index: int  # of the class
    label: str  # its name; the index as text if the output has no labels
    score: float
    box: tuple[float, float, float, float] | None = None  # top, left, bottom, right, in the model's own units


def postprocess(
    declared: Postprocessing, outputs: Mapping[str, Array], labels: Mapping[str, Sequence[str]]
) -> tuple[Answer, ...]:
    """Convert the outputs of a call, the best score first; equal scores in the order of the output.

    Args:
        declared: the manifest's postprocessing.
        outputs: by name, dequantized: scores (1, ..., classes) or (1, ..., boxes, classes), boxes (1, ..., boxes, 4),
            with the last two axes swapped if ``boxes_last``.
        labels: by output name.
    """
    activation, names = ACTIVATIONS[declared.activation], labels.get(declared.scores, ())
    if declared.boxes is None:
        scores = activation(outputs[declared.scores].astype(np.float32).reshape(-1))  # (classes,)
        best = _best(scores, declared.threshold)[: declared.top]
        return tuple(_answer(int(index), float(scores[index]), names) for index in best)
    boxes, scores = _rows(declared, outputs[declared.boxes]), _rows(declared, outputs[declared.scores])
    if declared.boxes == declared.scores:
        scores = scores[:, 4:]
    boxes, scores = BOX_FORMATS[declared.box_format](boxes[:, :4]), activation(scores)  # (boxes, 4), (boxes, classes)
    classes = np.argmax(scores, axis=1)  # (boxes,)
    of_class = scores[np.arange(len(scores)), classes]  # (boxes,)
    kept = non_max_suppression(boxes, of_class, classes, declared.iou, declared.threshold)[: declared.top]
    return tuple(_answer(int(classes[i]), float(of_class[i]), names, boxes[i]) for i in kept)


def _rows(declared: Postprocessing, output: Array) -> Array:
    """Return a row for each box, (boxes, values)."""
    rows = output.astype(np.float32).reshape(output.shape[-2:])
    return rows.T if declared.boxes_last else rows


def _answer(index: int, score: float, names: Sequence[str], box: Array | None = None) -> Answer:
    label = names[index] if names else str(index)
    if box is None:
        return Answer(index, label, score)
    top, left, bottom, right = map(float, box)
    return Answer(index, label, score, (top, left, bottom, right))


def _best(scores: Array, threshold: float) -> Array:
    """Return the indices of the scores that reach the threshold, the best first, without NaN."""
    order = np.argsort(-scores, kind="stable")
    return order[scores[order] >= threshold]


def non_max_suppression(boxes: Array, scores: Array, classes: Array, iou: float, threshold: float) -> list[int]:
    """Run greedy non-maximum suppression: keep the best box, drop those of its class that overlap it too much, repeat.

    Args:
        boxes: (N, 4), top, left, bottom, right.
        scores: (N,).
        classes: (N,); boxes of different classes do not suppress each other.
        iou: intersection over union above which a box is dropped.
        threshold: least score.

    Returns:
        The places of the boxes that stay, the best first.
    """
    left = _best(scores, threshold)
    kept = []
    while len(left):
        best, left = int(left[0]), left[1:]
        kept.append(best)
        covered = (classes[left] == classes[best]) & (_ious(boxes[best], boxes[left]) > iou)
        left = left[~covered]
    return kept


def _ious(box: Array, others: Array) -> Array:
    """Return the intersection over union of a box with each of the others, (N,); 0 if both are empty."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = _areas(low, high)
    union = _areas(box[:2], box[2:]) + _areas(others[:, :2], others[:, 2:]) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def _areas(low: Array, high: Array) -> Array:
    sides: Array = np.maximum(high - low, 0)
    return np.asarray(sides[..., 0] * sides[..., 1])


def softmax(logits: Array) -> Array:
    """Return ``exp(x) / sum(exp(x))`` over the last axis, shifted so that nothing overflows."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def sigmoid(logits: Array) -> Array:
    """Return ``1 / (1 + exp(-x))``, computed with tanh, which does not overflow."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * logits))


def _from_xyxy(boxes: Array) -> Array:
    return boxes[:, [1, 0, 3, 2]]


def _from_centres(boxes: Array) -> Array:
    """Convert centre x, centre y, width, height to top, left, bottom, right."""
    centres, sizes = boxes[:, [1, 0]], boxes[:, [3, 2]]
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"none": np.asarray, "softmax": softmax, "sigmoid": sigmoid}
BOX_FORMATS: dict[str, Callable[[Array], Array]] = {"yxyx": np.asarray, "xyxy": _from_xyxy, "cxcywh": _from_centres}
