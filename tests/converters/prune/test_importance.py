"""The formulas of channel importance."""

import numpy as np
import pytest

from edgekit_converters.prune.importance import WeightSums, score_channels

MADE = WeightSums(
    "produces", "kernel", np.array([3.0, 1.0]), np.array([5.0, 1.0]), None, np.array([[4.0, 9.0], [16.0, 9.0]])
)
PASSED = WeightSums("passes", "kernel", np.array([1.0, 2.0]), np.array([1.0, 4.0]), None, np.array([[0.0, 0.0]] * 2))
SCALE = WeightSums("passes", "scale", np.array([0.5, 2.0]), np.array([0.25, 4.0]))
BIAS = WeightSums("produces", "other", np.array([9.0, 9.0]), np.array([81.0, 81.0]))
USED = WeightSums(
    "consumes", "kernel", np.array([7.0, 7.0]), np.array([7.0, 7.0]), np.array([[1.0, -4.0], [-3.0, 2.0]])
)
ALSO = WeightSums(
    "consumes", "kernel", np.array([7.0, 7.0]), np.array([7.0, 7.0]), np.array([[-1.0, -1.0], [-1.0, 2.0]])
)
ALL = [MADE, PASSED, SCALE, BIAS, USED, ALSO]


@pytest.mark.parametrize(
    ("importance", "expected"),
    [
        ("l1", [4.0, 3.0]),
        ("l2", [np.sqrt(6.0), np.sqrt(5.0)]),
        ("taylor", [(1 + 3) / 2 + (1 + 1) / 2, (4 + 2) / 2 + (1 + 2) / 2]),  # no layer is set off against another
        ("gradient", [(2 + 4) / 2 / np.sqrt(6.0), 3 / np.sqrt(5.0)]),
        ("batch-norm", [0.5, 2.0]),
    ],
)
def test_each_importance_is_its_formula(importance, expected):
    assert np.allclose(score_channels(importance, ALL), expected)


def test_without_a_normalization_batch_norm_is_l2():
    assert np.allclose(score_channels("batch-norm", [MADE, USED]), score_channels("l2", [MADE, USED]))


def test_random_depends_on_seed_and_group_alone():
    first = score_channels("random", ALL, (0, "a"))
    assert np.array_equal(first, score_channels("random", ALL[::-1], (0, "a")))
    assert not np.array_equal(first, score_channels("random", ALL, (1, "a")))
    assert not np.array_equal(first, score_channels("random", ALL, (0, "b")))
