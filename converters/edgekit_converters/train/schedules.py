"""Learning-rate schedules."""

from __future__ import annotations

import math

from edgekit_converters.train import Settings

DROPS = (0.5, 0.75)  # of "step": shares of the training after which the rate is a tenth, and a hundredth


def learning_rate(settings: Settings, step: int, steps_an_epoch: int) -> float:
    """Return the learning rate of a step, counted from 0 over all epochs.

    It rises linearly over ``warmup_epochs`` epochs (Goyal et al., 2017). Then ``"cosine"`` lowers it along half a wave
    to zero (Loshchilov & Hutter, SGDR, 2017, without restarts), ``"step"`` divides it by ten after half and after three
    quarters of all steps (as He et al., 2015, on CIFAR), and ``"constant"`` keeps it.
    """
    total = settings.epochs * steps_an_epoch
    rising = min(round(settings.warmup_epochs * steps_an_epoch), total - 1)
    if step < rising:
        return settings.learning_rate * (step + 1) / (rising + 1)
    share = (step - rising) / max(1, total - rising)
    return settings.learning_rate * _factor(settings.schedule, share)


def _factor(schedule: str, share: float) -> float:
    """Return the factor of the highest rate after a fraction of the steps: 0..1 for 0..1."""
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    if schedule == "step":
        return float(0.1 ** sum(share >= drop for drop in DROPS))
    return 1.0
