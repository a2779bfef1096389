"""What is learned, read off data, model and teacher; and what of them is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edgekit_converters.data import DataSet
from edgekit_converters.records import Source, SourceRequest
from edgekit_converters.train import Settings, TrainRequest
from edgekit_converters.train.losses import (
    are_probabilities,
    as_column,
    build_objective,
    logits,
    matching_maps,
    softened,
)
from edgekit_runtime.errors import DataError, PlanError
from edgekit_runtime.format.manifest import InputSpec, OutputSpec

GENERATOR = np.random.default_rng(0)
LOGITS = GENERATOR.normal(0, 3, (32, 5)).astype(np.float32)
PROBABILITIES = softened(LOGITS, False, 1.0)
CLASSES = GENERATOR.integers(0, 5, 32)


def asked(inputs=((1, 8),), outputs=((1, 5),), **settings):
    source = SourceRequest("keras", Path("model.keras"))
    specs = tuple(InputSpec(f"in{i}", shape, "float32") for i, shape in enumerate(inputs))
    given = tuple(OutputSpec(f"out{i}", shape, "float32") for i, shape in enumerate(outputs))
    data = DataSet((), None, (), 32, "", ())
    return TrainRequest(Source(source, "keras", specs, given, (False,)), specs, given, data, Settings(**settings))


def test_softening_is_softmax_of_logits_and_the_same_from_probabilities():
    powers = np.exp(LOGITS.astype(np.float64) / 4)
    wanted = powers / powers.sum(axis=1, keepdims=True)
    assert np.allclose(softened(LOGITS, False, 4.0), wanted, atol=1e-6)
    assert np.allclose(softened(PROBABILITIES, True, 4.0), wanted, atol=1e-6)


def test_probabilities_are_told_from_logits():
    assert are_probabilities(PROBABILITIES)
    assert not are_probabilities(LOGITS)
    assert not are_probabilities(np.abs(LOGITS))
    assert np.isfinite(logits(np.eye(3, dtype=np.float32), True)).all()


@pytest.mark.parametrize(("outputs", "probabilities"), [(LOGITS, False), (PROBABILITIES, True)])
def test_a_classifier_with_labels_learns_from_both_in_their_shares(outputs, probabilities):
    (target,) = build_objective(asked(distillation_weight=0.75), CLASSES, [outputs], [LOGITS]).targets
    assert (target.classes, target.probabilities, target.teacher_probabilities) == (True, probabilities, False)
    assert (target.label_weight, target.teacher_weight) == (0.25, 0.75)
    (alone,) = build_objective(asked(distillation_weight=0.75), CLASSES, [outputs], []).targets
    assert (alone.label_weight, alone.teacher_weight) == (1.0, 0.0)


def test_one_probability_is_of_two_classes():
    two, request = CLASSES % 2, asked(outputs=((1, 1),))
    chance = GENERATOR.uniform(size=(32, 1)).astype(np.float32)
    objective = build_objective(request, two, [chance], [chance])
    (target,) = objective.targets
    assert (target.classes, target.probabilities, target.teacher_probabilities, target.binary) == (
        True,
        True,
        True,
        True,
    )
    assert np.allclose(
        dataclasses.replace(objective, temperature=1.0).soften([chance])[0], np.hstack([1 - chance, chance]), atol=1e-6
    )
    with pytest.raises(DataError, match=r"one score, not a probability.*end the model with a sigmoid"):
        build_objective(request, two, [8 * chance], [])
    with pytest.raises(DataError, match=r"has the label \d, but output 'out0' has classes 0\.\.1"):
        build_objective(request, CLASSES, [chance], [])


def test_without_labels_the_teacher_is_all_there_is():
    (target,) = build_objective(asked(distillation_weight=0.5), None, [LOGITS], [PROBABILITIES]).targets
    assert (target.classes, target.teacher_probabilities, target.teacher_weight) == (True, True, 1.0)


def test_other_outputs_are_learned_from_the_teacher_alone():
    request = asked(outputs=((1, 5), (1, 4, 4, 2)))
    first, second = build_objective(request, CLASSES, [LOGITS, LOGITS], [LOGITS, LOGITS]).targets
    assert (second.classes, second.label_weight, second.teacher_weight) == (False, 0.0, 1.0)
    assert first.label_weight > 0


def test_rows_that_may_be_a_box_are_matched_by_their_values():
    request = asked(outputs=((1, 5), (1, 5), (1, 5)))
    box, scores = GENERATOR.normal(size=(32, 5)).astype(np.float32), PROBABILITIES
    assert [
        one.classes for one in build_objective(request, CLASSES, [LOGITS, box, scores], [LOGITS, box, scores]).targets
    ] == [*(True, False, True)]
    assert not build_objective(asked(), None, [box], [box]).targets[0].classes


def test_what_rebuilds_its_input_needs_neither_labels_nor_teacher():
    objective = build_objective(asked(outputs=((1, 8),)), None, [LOGITS], [])
    assert objective.reconstructs
    assert not objective.targets[0].classes


def test_targets_in_floating_point_are_matched():
    targets = GENERATOR.normal(size=(32, 5)).astype(np.float32)
    assert not build_objective(asked(), targets, [PROBABILITIES], []).targets[0].classes


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.where(np.arange(32) == 17, 5, CLASSES), r"training sample 17 has the label 5.*classes 0\.\.4"),
        (GENERATOR.normal(size=(32, 4)), r"float64 of shape \(32, 4\), do not fit output 'out0'"),
        (GENERATOR.normal(size=32), "floating-point targets of shape"),
        (np.full((32, 5), np.nan), "sample 0 has a target of NaN"),
        (np.eye(5, dtype=np.float32)[CLASSES], r"float32 of shape \(32, 5\), are one-hot: give class numbers"),
        (None, "without labels need a teacher"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        build_objective(asked(), labels, [LOGITS], [])


def test_one_number_a_sample_is_a_column_where_the_output_is():
    numbers = GENERATOR.normal(size=32).astype(np.float32)
    one, five = (OutputSpec("out", (1, width), "float32") for width in (1, 5))
    assert as_column(numbers, one).shape == (32, 1)
    assert as_column(numbers, five) is numbers
    assert as_column(CLASSES, one) is CLASSES
    assert as_column(None, one) is None


def test_hints_are_matched_by_size():
    maps = [np.zeros((4, 16, 16)), np.zeros((4, 8, 8))]
    assert matching_maps([(8, 8), (4, 4)], maps) == [(0, 1)]
    with pytest.raises(PlanError, match="share no size"):
        matching_maps([(5, 5)], maps)
