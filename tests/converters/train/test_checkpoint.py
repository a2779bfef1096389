"""Checkpoints are there whole or not at all."""

import numpy as np
import pytest

from edgekit_converters.train import Epoch, checkpoint
from edgekit_converters.train.checkpoint import Standing
from edgekit_runtime.errors import SourceError

STOOD = Standing(
    before=0.1,
    history=(Epoch(1, 2.5, 0.3, 1e-3, 1.5), Epoch(2, 1.5, 0.2, 1e-4, 1.25)),
    best=1,
    best_value=0.3,
    now={"weights/a": np.arange(6.0).reshape(2, 3), "optimizer/0": np.array(7)},
    best_weights={"weights/a": np.ones((2, 3))},
)


def test_what_was_written_is_read(tmp_path):
    assert not checkpoint.exists(tmp_path / "there")
    checkpoint.write(STOOD, tmp_path / "there")
    found = checkpoint.read(tmp_path / "there")
    assert (found.before, found.history, found.best, found.best_value) == (0.1, STOOD.history, 1, 0.3)
    assert found.now.keys() == STOOD.now.keys()
    assert np.array_equal(found.now["weights/a"], STOOD.now["weights/a"])
    assert np.array_equal(found.best_weights["weights/a"], np.ones((2, 3)))


def test_one_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    checkpoint.write(STOOD, tmp_path)

    def full(file, **arrays):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.write(STOOD, tmp_path)
    assert checkpoint.read(tmp_path).history == STOOD.history


def test_a_damaged_one_is_told_as_such(tmp_path):
    path = checkpoint.write(STOOD, tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SourceError, match="damaged checkpoint"):
        checkpoint.read(tmp_path)
