"""The learning rate of every step."""

import pytest

from edgekit_converters.train import SCHEDULES, Settings
from edgekit_converters.train.schedules import learning_rate

STEPS = 10  # an epoch


def rates(**settings):
    made = Settings(epochs=8, learning_rate=0.1, **settings)
    return [learning_rate(made, step, STEPS) for step in range(8 * STEPS)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_it_rises_linearly_over_the_warm_up_and_never_again(schedule):
    found = rates(schedule=schedule, warmup_epochs=1.0)
    rising = found[: STEPS + 1]
    assert rising == pytest.approx([0.1 * (step + 1) / (STEPS + 1) for step in range(STEPS + 1)])
    assert found[STEPS:] == sorted(found[STEPS:], reverse=True)
    assert max(found) == pytest.approx(0.1)


def test_cosine_ends_near_zero_and_is_half_in_the_middle():
    found = rates(schedule="cosine", warmup_epochs=0)
    assert found[40] == pytest.approx(0.05)
    assert 0 < found[-1] < 1e-3


def test_step_divides_by_ten_twice():
    found = rates(schedule="step", warmup_epochs=0)
    assert (found[39], found[40], found[59], found[60]) == pytest.approx((0.1, 0.01, 0.01, 0.001))


def test_constant_stays():
    assert set(rates(schedule="constant", warmup_epochs=0)) == {0.1}


def test_a_warm_up_longer_than_the_training_still_reaches_the_rate():
    assert rates(warmup_epochs=100.0)[-1] == pytest.approx(0.1)
