"""Log the epochs of a training to TensorBoard and to Weights & Biases."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgekit_converters.execution.toolchains import require_modules
from edgekit_converters.train import Epoch, TrainRequest

LogEpoch = Callable[[Epoch], None]


@contextlib.contextmanager
def open_loggers(request: TrainRequest, metric: str) -> Iterator[LogEpoch]:
    """Yield a function that logs an epoch to all loggers of the request.

    Raises:
        ToolchainError: tensorboardX or Weights & Biases is needed and not installed.
    """
    with contextlib.ExitStack() as watching:
        loggers = [
            *([watching.enter_context(_tensorboard(request.log_dir, metric))] if request.log_dir else []),
            *([watching.enter_context(_weights_and_biases(request, metric))] if request.wandb else []),
        ]

        def log(epoch: Epoch) -> None:
            for one in loggers:
                one(epoch)

        yield log


def scalars(epoch: Epoch, metric: str) -> dict[str, float]:
    """Return the values that are logged for an epoch, by name."""
    return {"loss": epoch.loss, f"held-out/{metric}": epoch.value, "learning_rate": epoch.learning_rate}


@contextlib.contextmanager
def _tensorboard(folder: str, metric: str) -> Iterator[LogEpoch]:
    """Log to an event file of its own in the folder, which several trainings may share."""
    require_modules(("tensorboardX",), ("keras", "torch"), "train")
    from tensorboardX import SummaryWriter

    with SummaryWriter(folder, filename_suffix=f".{os.getpid()}") as writer:

        def log(epoch: Epoch) -> None:
            for tag, value in scalars(epoch, metric).items():
                writer.add_scalar(tag, value, epoch.number)
            writer.flush()  # TensorBoard reads the file while the training goes on

        yield log


@contextlib.contextmanager
def _weights_and_biases(request: TrainRequest, metric: str) -> Iterator[LogEpoch]:
    """Its files lie in the folder of the events, else here; with ``WANDB_MODE=offline`` it sends nothing."""
    require_modules(("wandb",), ("wandb",), "train")
    import wandb

    settings: dict[str, Any] = asdict(request.settings)
    folder = Path(request.log_dir or os.curdir)
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(project=request.wandb, dir=str(folder), config=settings)
    try:
        yield lambda epoch: run.log(scalars(epoch, metric), step=epoch.number)
    finally:
        run.finish()
        wandb.teardown()  # its own process writes what it has; a worker is ended with all of its processes
