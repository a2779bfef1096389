"""Ranges from histograms against numpy on the values."""

import numpy as np
import pytest

from edgekit_converters.quantize.ranges import Histogram, entropy, mse, percentile

LEVELS = 256


def full(values):
    return float(values.min()), float(values.max())


def histogram(values):
    made = Histogram()
    made.add(values)
    return made


def squared_error(values, low, high, levels=LEVELS):
    """Quantize for real, zero exactly representable, and sum the squared errors."""
    scale = (high - low) / (levels - 1)
    zero = np.rint(-low / scale)
    steps = np.clip(np.rint(values / scale) + zero, 0, levels - 1)
    return float(np.sum(((steps - zero) * scale - values) ** 2))


def brute_force(values, levels=LEVELS):
    """Return the least error over a grid of both ends."""
    fractions = np.geomspace(1e-3, 1, 80)
    low, high = full(values)
    lows = fractions * low if low < 0 else (0.0,)
    return min(squared_error(values, a, b, levels) for a in lows for b in fractions * high)


def laplace(n=20000):
    return np.random.default_rng(0).laplace(0.3, 1.0, n).astype(np.float32)


def relu(n=20000):
    return np.maximum(np.random.default_rng(1).standard_normal(n), 0).astype(np.float32)


def with_outliers(n=20000):
    values = np.random.default_rng(2).standard_normal(n).astype(np.float32)
    values[:3] = (900, 700, -500)
    return values


DISTRIBUTIONS = [laplace, relu, with_outliers]


@pytest.mark.parametrize("draw", DISTRIBUTIONS)
@pytest.mark.parametrize("kept", [90.0, 99.0, 99.9])
def test_percentile_equals_numpys_within_a_64th(draw, kept):
    values = draw()
    expected = np.percentile(values, [(100 - kept) / 2, (100 + kept) / 2])
    np.testing.assert_allclose(percentile(histogram(values).bins(), kept), expected, rtol=1 / 64, atol=1e-6)


@pytest.mark.parametrize("draw", DISTRIBUTIONS)
@pytest.mark.parametrize("levels", [16, 256])
def test_mse_is_as_good_as_trying_all_ranges(draw, levels):
    values = draw()
    low, high = mse(histogram(values).bins(), full(values), levels)
    assert squared_error(values, low, high, levels) <= 1.1 * brute_force(values, levels)


@pytest.mark.parametrize("draw", DISTRIBUTIONS)
def test_mse_with_65536_levels_clips_next_to_nothing(draw):
    values = draw()
    low, high = mse(histogram(values).bins(), full(values), 65536)
    assert high >= values.max() * (1 - 1 / 64)
    assert low <= min(values.min(), 0) * (1 - 1 / 64)


def test_mse_ignores_exact_zeros():
    rare = relu()
    many = np.concatenate([rare, np.zeros(10 * len(rare), np.float32)])
    assert mse(histogram(many).bins(), full(many), 16) == mse(histogram(rare).bins(), full(rare), 16)


@pytest.mark.parametrize("rule", [mse, entropy])
def test_a_range_stays_within_the_full_range(rule):
    values = np.random.default_rng(3).uniform(0.25, 0.99, 5000).astype(np.float32)
    low, high = rule(histogram(values).bins(), full(values), LEVELS)
    assert min(full(values)[0], 0) <= low
    assert high <= full(values)[1]


def test_entropy_clips_outliers_and_keeps_flat_distributions():
    values = with_outliers() / 16  # three values of -31, 44 and 56 among others within 5
    values[3:] *= 16
    low, high = entropy(histogram(values).bins(), full(values), LEVELS)
    assert 2 < high < 10
    assert -10 < low < -2
    flat = np.random.default_rng(4).uniform(-1, 1, 50000).astype(np.float32)
    assert entropy(histogram(flat).bins(), full(flat), LEVELS)[1] > 0.95


def test_entropy_with_more_levels_than_bins_clips_nothing():
    values = with_outliers()
    assert entropy(histogram(values).bins(), full(values), 65536) == full(values)


def test_zeros_alone_have_no_range():
    zeros = np.zeros(10, np.float32)
    bins = histogram(zeros).bins()
    assert mse(bins, (0.0, 0.0), LEVELS) == (0, 0)
    assert entropy(bins, (0.0, 0.0), LEVELS) == (0, 0)
    np.testing.assert_allclose(percentile(bins, 99.0), 0, atol=1e-30)


def test_the_order_and_the_grouping_of_samples_do_not_matter():
    values = laplace()
    whole, parts = histogram(values), Histogram()
    for part in np.split(values[::-1], 10):
        parts.add(part)
    np.testing.assert_array_equal(parts.counts, whole.counts)


def test_bins_hold_the_values_they_count():
    values = np.array([-3e30, -1.5, -1e-30, 0.0, -0.0, 2e-20, 1.0, 1.01, 7e25], np.float32)
    bins = histogram(values).bins()
    assert bins.count.sum() == len(values)
    assert np.all(np.diff(bins.middle) > 0) or np.all(np.diff(bins.middle[np.abs(bins.middle) > 1e-37]) > 0)
    for value in values:
        assert np.any((bins.lower <= value) & (value <= bins.upper))


def test_infinities_and_nan_are_not_counted():
    values = np.array([1.0, np.inf, -np.inf, np.nan, -2.0], np.float32)
    assert histogram(values).bins().count.sum() == 2
