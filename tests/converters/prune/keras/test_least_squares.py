"""Weights that come closest, and none that only fit the rows they were solved on."""

import numpy as np

from edgekit_converters.prune.keras.least_squares import solve_weights

DRAW = np.random.default_rng(0)


def test_weights_that_were_lost_are_found_again():
    read, true = DRAW.standard_normal((400, 12)), DRAW.standard_normal((12, 5))
    assert np.allclose(solve_weights(read, read @ true, np.zeros((12, 5))), true, atol=1e-3)


def test_what_a_lost_channel_gave_is_taken_from_those_like_it():
    hidden = DRAW.standard_normal((600, 6))
    read = hidden @ DRAW.standard_normal((6, 9))  # nine channels that tell of six things
    weights = DRAW.standard_normal((9, 4))
    wanted, left, there = read @ weights, read[:, :6], weights[:6]
    better = solve_weights(left, wanted, there)
    assert np.sum((wanted - left @ better) ** 2) < 0.01 * np.sum((wanted - left @ there) ** 2)


def test_weights_stay_where_the_samples_tell_nothing():
    weights = DRAW.standard_normal((30, 3))
    read = DRAW.standard_normal((24, 30))
    noise = read @ weights + DRAW.standard_normal((24, 3))
    better = solve_weights(read, noise, weights)
    fresh = DRAW.standard_normal((1000, 30))
    assert np.mean((fresh @ (better - weights)) ** 2) < 0.5  # solving without a ridge leaves more than 1
    assert solve_weights(read[:3], noise[:3], weights) is weights
    assert solve_weights(read, read @ weights, weights) is weights
