"""Checkpoints: the state of a training after each epoch, in one file that is written completely or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from edgekit_converters.execution.worker import DISK_FULL_ERRNOS
from edgekit_converters.train import Epoch
from edgekit_converters.train.student import State
from edgekit_runtime.errors import ConversionError, DiskFull, SourceError

NAME = "last.npz"
PROGRESS, NOW, BEST = "stands", "now/", "best/"


@dataclass(frozen=True)
class TrainingState:
    """The state of a training after an epoch."""

    before: float  # of the metric, as the student came
    history: tuple[Epoch, ...]
    best: int  # number of the best epoch; 0: as it came
    best_value: float
    now: State  # to go on with
    best_weights: State


def exists(folder: str | Path) -> bool:
    """Tell whether a folder has a checkpoint."""
    return (Path(folder) / NAME).is_file()


def write(state: TrainingState, folder: str | Path) -> Path:
    """Write a checkpoint into ``folder``, replacing the last one; if killed meanwhile, the last one remains.

    Raises:
        DiskFull: the disk is full.
        ConversionError: the folder cannot be written to.
    """
    path = Path(folder) / NAME
    progress = {name: getattr(state, name) for name in ("before", "best", "best_value")}
    progress["history"] = [asdict(epoch) for epoch in state.history]
    arrays: dict[str, Any] = {PROGRESS: np.frombuffer(json.dumps(progress).encode(), np.uint8)}
    arrays |= {NOW + name: array for name, array in state.now.items()}
    arrays |= {BEST + name: array for name, array in state.best_weights.items()}
    aside = path.with_name(f".{NAME}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        kind = DiskFull if error.errno in DISK_FULL_ERRNOS else ConversionError
        raise kind(
            f"the epoch cannot be kept in {path.parent}: {error.strerror or error}",
            stage="train",
            advice="free some space there, or set EDGEKIT_CACHE to a folder on another disk; with --resume training "
            "goes on after the epoch before, where that was kept",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
    return path


def read(folder: str | Path) -> TrainingState:
    """Read the checkpoint of a folder.

    Raises:
        SourceError: it is damaged.
    """
    path = Path(folder) / NAME
    try:
        with np.load(path, allow_pickle=False) as arrays:
            progress = json.loads(arrays[PROGRESS].tobytes())
            now, best = _part(arrays, NOW), _part(arrays, BEST)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise SourceError(f"{path}: a damaged checkpoint ({error}); leave --resume out to begin anew") from error
    history = tuple(Epoch(**epoch) for epoch in progress.pop("history"))
    return TrainingState(**progress, history=history, now=now, best_weights=best)


def _part(arrays: Any, prefix: str) -> State:
    return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
