"""The loss of each output of a student, chosen from the data, the model and its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit_converters.data.samples import Array
from edgekit_converters.train import TrainRequest
from edgekit_runtime.errors import DataError, PlanError
from edgekit_runtime.format.manifest import OutputSpec

TINY = 1e-12  # lower limit of probabilities, so that logarithms are finite
ATTENTION_WEIGHT = (
    100.0  # of attention maps in the loss: their differences are squares of shares of one (beta of AT, 2017)
)


@dataclass(frozen=True)
class LossTarget:
    """The loss of one output; a weight of 0 switches that part off."""

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
        """Return a teacher's outputs as they are matched: for classes, probabilities at the temperature."""
        return [
            softened(both_classes(array) if target.binary else array, target.teacher_probabilities, self.temperature)
            if target.classes
            else array
            for target, array in zip(self.targets, answers, strict=False)
        ]


def logits(outputs: Array, probabilities: bool) -> Array:
    """Return logits: the outputs, or the logarithms of probabilities."""
    return np.log(np.maximum(outputs, TINY)) if probabilities else outputs


def softened(outputs: Array, probabilities: bool, temperature: float) -> Array:
    """Return ``softmax(logits / temperature)`` along the last axis."""
    scaled = logits(outputs, probabilities) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float32)


def both_classes(probability: Array) -> Array:
    """Return the probabilities of both classes, (b, 2), from that of the second, (b, 1)."""
    return np.concatenate([1 - probability, probability], axis=1)


def are_probabilities(outputs: Array) -> bool:
    """Tell probabilities from logits: none is negative, and they add up to one for every sample."""
    return outputs.min() >= 0 and bool(np.allclose(outputs.sum(axis=-1), 1.0, atol=1e-3))


def as_column(labels: Array | None, spec: OutputSpec) -> Array | None:
    """Return one target for each sample, (n,), in the shape of such an output, (n, 1); other labels unchanged."""
    one = labels is not None and labels.dtype.kind == "f" and labels.ndim == 1 and spec.shape == (1, 1)
    return labels.reshape(-1, 1) if labels is not None and one else labels


def refuse_one_hot(labels: Array) -> None:
    """Refuse one-hot labels, which would be trained as regression targets.

    Raises:
        DataError: every row is one-hot.
    """
    rows = labels.ndim == 2 and labels.shape[1] > 1
    if rows and bool(np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()):
        raise DataError(
            f"the labels, {labels.dtype} of shape {labels.shape}, are one-hot: give class numbers (their argmax), "
            f"so that they are trained as classes and not as regression targets"
        )


def matching_maps(ours: Sequence[tuple[int, ...]], attention_maps: Sequence[Array]) -> list[tuple[int, int]]:
    """Pair the attention maps of a student, given by size, with those of the teacher, by index.

    Raises:
        PlanError: they have no size in common.
    """
    sizes = {hint.shape[1:]: place for place, hint in enumerate(attention_maps)}
    pairs = [(place, sizes[size]) for place, size in enumerate(ours) if size in sizes]
    if not pairs:
        raise PlanError(
            f"--attention-transfer: feature maps of student {sorted(ours)} and teacher {sorted(sizes)} share no size"
        )
    return pairs


def build_objective(
    request: TrainRequest, labels: Array | None, outputs: list[Array], answers: list[Array]
) -> Objective:
    """Choose the loss of each output from data, model and teacher.

    Args:
        request: the specs of inputs and outputs, and the teacher's weight.
        labels: of the training data.
        outputs: the student's, for some samples.
        answers: the teacher's, for some samples; empty without a teacher.

    Raises:
        DataError: there are neither labels nor a teacher, or the labels do not fit the first output.
    """
    share = _teacher_share(request, labels, answers)
    reconstructs = labels is None and not answers
    if reconstructs and request.inputs[0].shape != request.outputs[0].shape:
        raise DataError(
            "training data without labels need a teacher: give labelled data "
            "(a folder a class, or labels in the .npz), or a teacher (--teacher)"
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
    """Return the teacher's weight in the loss of the first output: 1 without labels."""
    if not answers:
        return 0.0
    return request.settings.distillation_weight if labels is not None else 1.0


def _is_classifier(samples: list[Array]) -> bool:
    """Tell a classifier's output without labels: the student or its teacher gives probabilities.

    Other rows of numbers may be logits or regression values. Squared error fits both; for logits it is the limit of the
    KL divergence at high temperatures, up to a constant (Hinton et al., 2015, section 2.1).
    """
    return all(one.ndim == 2 and one.shape[1] > 1 for one in samples) and any(map(are_probabilities, samples))


def _labels_are_classes(labels: Array, spec: OutputSpec) -> bool:
    """Tell class numbers from targets of the output's shape.

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
    """Refuse class numbers that the output has no score for; a single score stands for two classes.

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
    """Refuse a single score that is not a probability: its decision threshold is unknown."""
    if any(one.min() < 0 or one.max() > 1 for one in samples):
        raise DataError(
            f"output {spec.name!r} is one score, not a probability, so that class numbers cannot be trained: "
            f"end the model with a sigmoid, or give floating-point targets of shape (samples, 1)"
        )


def _check_labels(labels: Array, spec: OutputSpec, *, classes: bool) -> None:
    """Refuse class numbers that the output has no score for, and targets that are not finite."""
    if classes:
        check_classes(labels, spec)
        return
    wrong = np.flatnonzero(~np.isfinite(labels.reshape(len(labels), -1)).all(axis=1))
    if wrong.size:
        raise DataError(f"training sample {wrong[0]} has a target of NaN or infinity")
