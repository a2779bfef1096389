"""Settled ranges are distinguished from growing ones, and the run stops when ranges have settled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgekit_converters.data.samples import spread_order
from edgekit_converters.examine.coverage import (
    CoverageRequest,
    CoverageStep,
    calibration_coverage,
    halving_checkpoints,
    settling_samples,
)

ENGINES = ["litert", pytest.param("openvino", marks=pytest.mark.needs_openvino)]


def uniform(count):
    return np.random.default_rng(1).uniform(-1, 1, (count, 8)).astype(np.float32)


@pytest.fixture
def covered(loaded, lowered, prepared, tmp_path):
    """Measure the coverage of samples (n, 8) on a small Keras model's artifact."""

    def run(engine, samples, **options):
        import keras

        keras.utils.set_random_seed(0)
        inputs = keras.Input((8,))
        hidden = keras.layers.Dense(16, activation="relu", name="hidden")(inputs)
        keras.Model(inputs, keras.layers.Dense(3, name="head")(hidden)).save(tmp_path / "net.keras")
        source = loaded(tmp_path / "net.keras")
        request = CoverageRequest(lowered(source, engine), source.inputs, prepared(source, samples), **options)
        return calibration_coverage(request, tmp_path)

    return run


@pytest.mark.needs_keras
@pytest.mark.parametrize("engine", ENGINES)
def test_bounded_samples_settle(covered, engine):
    seen = covered(engine, uniform(500))
    assert [doubling.samples for doubling in seen.doublings] == [31, 62, 125, 250, 500]
    assert (seen.samples, seen.settled) == (500, 125)
    assert seen.tensors >= 3
    assert seen.doublings[-1].mean < 0.05


@pytest.mark.needs_keras
@pytest.mark.parametrize("engine", ENGINES)
def test_values_of_only_the_last_half_count_as_growth(covered, engine):
    samples = uniform(500)
    samples[spread_order(500)[250:]] *= 2
    seen = covered(engine, samples)
    assert seen.settled is None
    assert seen.doublings[-1].grown == 1
    assert seen.doublings[-1].mean == pytest.approx(0.5, abs=0.1)  # twice as wide: half of the range is new
    assert [growth.part for growth in seen.worst] == sorted((growth.part for growth in seen.worst), reverse=True)
    assert 0.4 < seen.worst[0].part < 0.6


@pytest.mark.needs_keras
def test_the_run_stops_when_ranges_have_settled(covered):
    seen = covered("litert", uniform(500), stop=True)
    assert (seen.samples, seen.settled) == (125, 125)
    assert [doubling.samples for doubling in seen.doublings] == [31, 62, 125]


@pytest.mark.needs_keras
def test_growing_ranges_do_not_stop_the_run(covered):
    samples = uniform(500)
    samples[spread_order(500)] *= 1.01 ** np.arange(500, dtype=np.float32)[:, np.newaxis]
    seen = covered("litert", samples, stop=True)
    assert (seen.samples, seen.settled) == (500, None)


@pytest.mark.needs_keras
def test_samples_sorted_by_class_are_run_mixed(covered):
    samples = uniform(500)
    samples[250:] *= 4
    assert covered("litert", samples, stop=True).settled in (125, 250)  # in the file's order, growth comes at the end


@pytest.mark.parametrize(
    ("total", "looks"), [(16, [8, 16]), (100, [12, 25, 50, 100]), (500, [15, 31, 62, 125, 250, 500])]
)
def test_the_last_doubling_is_the_last_half(total, looks):
    assert halving_checkpoints(total) == looks


def test_few_samples_never_settle_ranges_and_late_growth_unsettles_them():
    still = [CoverageStep(samples, 0.01, 0.0) for samples in (16, 32, 64, 128, 256)]
    assert settling_samples(still[:2]) is None
    assert settling_samples(still) == 64
    assert settling_samples([*still[:4], replace(still[4], mean=0.3)]) is None
    assert settling_samples([*still[:3], replace(still[3], mean=0.3), still[4]]) == 256
