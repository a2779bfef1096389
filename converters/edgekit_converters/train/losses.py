"""Objective: what each output of a student is trained towards, read off the data, the model and its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit_converters.data.samples import Array
from edgekit_converters.train import TrainRequest
from edgekit_runtime.errors import DataError, PlanError
from edgekit_runtime.format.manifest import OutputSpec

TINY = 1e-12  # probabilities below are not told apart: their logarithms would be infinite
ATTENTION_WEIGHT = (
    100.0  # of attention maps in the loss: their differences are squares of shares of one (beta of AT, 2017)
)


@dataclass(frozen=True)
class LossTarget:
    """What one output is trained towards; a weight of 0 leaves that part out."""

    classes: bool  # cross-entropy; else the mean of squared differences
    probabilities: bool = False  # the student's output ends in softmax: its logarithms are taken as logits
    teacher_probabilities: bool = False  # likewise the teacher's
    label_weight: float = 0.0
    teacher_weight: float = 0.0
    binary: bool = False  # the probability of the second of two classes, (b, 1), is all there is


@dataclass(frozen=True)
class Objective:
    """The whole loss: the sum of its parts over all outputs.

    Of a classifier with labels ``y``, a teacher's logits ``t`` and the student's ``s`` it is
    ``(1 - share) CE(y, softmax(s)) + share T² KL(softmax(t / T) || softmax(s / T))`` (Hinton, Vinyals & Dean, 2015).
    Attention transfer adds ``ATTENTION_WEIGHT`` times the mean squared difference of normalized attention maps
    (Zagoruyko & Komodakis, Paying More Attention to Attention, 2017).
    """

    targets: tuple[LossTarget, ...]  # by output
    temperature: float = 1.0
    reconstructs: bool = False  # the first output's target is the first input

    def soften(self, answers: list[Array]) -> list[Array]:
        """A teacher's outputs as they are matched: probabilities at the temperature where they are of classes."""
        return [
            softened(both_classes(array) if target.binary else array, target.teacher_probabilities, self.temperature)
            if target.classes
            else array
            for target, array in zip(self.targets, answers, strict=False)
        ]


def logits(outputs: Array, probabilities: bool) -> Array:
    """Return logits: the outputs themselves, or the logarithms of probabilities, whose softmax they are."""
    return np.log(np.maximum(outputs, TINY)) if probabilities else outputs


def softened(outputs: Array, probabilities: bool, temperature: float) -> Array:
    """Return ``softmax(logits / temperature)`` along the last axis."""
    scaled = logits(outputs, probabilities) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float32)


def both_classes(probability: Array) -> Array:
    """Return the probabilities of both classes, (b, 2), for that of the second, (b, 1)."""
    return np.concatenate([1 - probability, probability], axis=1)


def are_probabilities(outputs: Array) -> bool:
    """Tell outputs of a softmax from logits: none is negative, and they add up to one in every sample."""
    return outputs.min() >= 0 and bool(np.allclose(outputs.sum(axis=-1), 1.0, atol=1e-3))


def as_column(labels: Array | None, spec: OutputSpec) -> Array | None:
    """Return one number a sample, (n,), in the form of an output that gives one, (n, 1); other labels as they are."""
    one = labels is not None and labels.dtype.kind == "f" and labels.ndim == 1 and spec.shape == (1, 1)
    return labels.reshape(-1, 1) if labels is not None and one else labels


def refuse_one_hot(labels: Array) -> None:
    """Refuse class numbers in the guise of targets: as those they would be learned by squares, and of logits wrongly.

    Raises:
        DataError: every row is one-hot.
    """
    rows = labels.ndim == 2 and labels.shape[1] > 1
    if rows and bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()):
        raise DataError(
            f"the labels, {labels.dtype} of shape {labels.shape}, are one-hot: give class numbers, their argmax, "
            f"so that they are learned as classes and not as targets"
        )


def matching_maps(ours: Sequence[tuple[int, ...]], hints: Sequence[Array]) -> list[tuple[int, int]]:
    """Pair a student's attention maps, given by their sizes, with the teacher's, by their places.

    Raises:
        PlanError: they have no size in common.
    """
    sizes = {hint.shape[1:]: place for place, hint in enumerate(hints)}
    pairs = [(place, sizes[size]) for place, size in enumerate(ours) if size in sizes]
    if not pairs:
        raise PlanError(
            f"--attention-transfer: feature maps of student {sorted(ours)} and teacher {sorted(sizes)} share no size"
        )
    return pairs


def build_objective(
    request: TrainRequest, labels: Array | None, outputs: list[Array], answers: list[Array]
) -> Objective:
    """Decide what is learned.

    Args:
        request: the specs of inputs and outputs, and how much the teacher counts.
        labels: of the training data.
        outputs: the student's, of some samples.
        answers: the teacher's, of some samples; empty without a teacher.

    Raises:
        DataError: there is nothing to learn from, or the labels do not fit the first output.
    """
    share = _teacher_share(request, labels, answers)
    reconstructs = labels is None and not answers
    if reconstructs and request.inputs[0].shape != request.outputs[0].shape:
        raise DataError(
            "training data without labels teach nothing without a teacher: give labelled data "
            "(a folder a class, or labels in the .npz), or a teacher whose answers are learned"
        )
    targets = []
    for index, spec in enumerate(request.outputs):
        first = index == 0
        samples = [outputs[index], *answers[index : index + 1]]
        classes = _labels_are_classes(labels, spec) if first and labels is not None else _is_classifier(samples)
        binary = classes and spec.shape[1] == 1
        if binary:
            _check_binary(samples, spec)
        targets.append(
            LossTarget(
                classes=classes,
                probabilities=binary or (classes and are_probabilities(outputs[index])),
                teacher_probabilities=classes and bool(answers) and (binary or are_probabilities(answers[index])),
                binary=binary,
                label_weight=1 - share if first else 0.0,
                teacher_weight=(share if first else 1.0) if answers else 0.0,
            )
        )
    if labels is not None:
        _check_labels(labels, request.outputs[0], classes=targets[0].classes)
    return Objective(tuple(targets), request.settings.temperature, reconstructs)


def _teacher_share(request: TrainRequest, labels: Array | None, answers: list[Array]) -> float:
    """How much of the first output's loss is the teacher's: all of it where there are no labels."""
    if not answers:
        return 0.0
    return request.settings.teacher_share if labels is not None else 1.0


def _is_classifier(samples: list[Array]) -> bool:
    """Tell a classifier's output without labels: the student or its teacher gives probabilities.

    Any other row of numbers may be logits, or a box: only squares match both. Those of logits are what the divergence
    comes to at high temperatures, but for what all of them have in common (Hinton et al., 2015, section 2.1).
    """
    return all(one.ndim == 2 and one.shape[1] > 1 for one in samples) and any(map(are_probabilities, samples))


def _labels_are_classes(labels: Array, spec: OutputSpec) -> bool:
    """Tell class numbers from targets of an output's own shape.

    Raises:
        DataError: the labels are neither.
    """
    if labels.dtype.kind in "iu" and labels.ndim == 1 and len(spec.shape) == 2:
        return True
    refuse_one_hot(labels)
    if labels.dtype.kind == "f" and labels.shape[1:] == spec.shape[1:]:
        return False
    raise DataError(
        f"the labels of the training data, {labels.dtype} of shape {labels.shape}, do not fit output {spec.name!r} "
        f"{spec.shape}: class numbers, (samples,), are for an output with a score a class; for anything else give "
        f"floating-point targets of shape ({len(labels)}, {', '.join(map(str, spec.shape[1:]))})"
    )


def check_classes(labels: Array, spec: OutputSpec) -> None:
    """Refuse class numbers the output has no score for; a single score is of two classes.

    Raises:
        DataError: naming the sample.
    """
    count = max(2, spec.shape[1])
    wrong = np.flatnonzero((labels < 0) | (labels >= count))
    if wrong.size:
        raise DataError(
            f"training sample {wrong[0]} has the label {labels[wrong[0]]}, "
            f"but output {spec.name!r} has classes 0..{count - 1}"
        )


def _check_binary(samples: list[Array], spec: OutputSpec) -> None:
    """Refuse a single score that is no probability: it is not known where one class ends and the other begins."""
    if any(one.min() < 0 or one.max() > 1 for one in samples):
        raise DataError(
            f"output {spec.name!r} is one score a sample and no probability, so that class numbers cannot be learned: "
            f"end the model with a sigmoid, or give floating-point targets of shape (samples, 1)"
        )


def _check_labels(labels: Array, spec: OutputSpec, *, classes: bool) -> None:
    """Refuse class numbers the output has no score for, and targets that are no numbers."""
    if classes:
        check_classes(labels, spec)
        return
    wrong = np.flatnonzero(~np.isfinite(labels.reshape(len(labels), -1)).all(axis=1))
    if wrong.size:
        raise DataError(f"training sample {wrong[0]} has NaN or infinity in its target")
