"""Checkpoints are there whole or not at all."""

import dataclasses
import re

import numpy as np
import pytest

from edgekit_converters.train import Epoch, checkpoint
from edgekit_converters.train.checkpoint import TrainingState
from edgekit_runtime.errors import ConversionError, DiskFull, SourceError

STOOD = TrainingState(
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


def test_one_that_cannot_be_written_leaves_the_one_before(small_disk):
    checkpoint.write(STOOD, small_disk)
    larger = dataclasses.replace(STOOD, now={"weights/a": np.ones(2**15)})
    with pytest.raises(DiskFull, match=re.escape(f"cannot be kept in {small_disk}: No space")):
        checkpoint.write(larger, small_disk)
    assert checkpoint.read(small_disk).history == STOOD.history
    assert [path.name for path in small_disk.iterdir()] == [checkpoint.NAME]


def test_a_place_where_nothing_can_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConversionError, match="Not a directory") as refused:
        checkpoint.write(STOOD, tmp_path / "file" / "kept")
    assert "EDGEKIT_CACHE" in refused.value.advice


def test_a_damaged_one_is_told_as_such(tmp_path):
    path = checkpoint.write(STOOD, tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SourceError, match="damaged checkpoint"):
        checkpoint.read(tmp_path)
