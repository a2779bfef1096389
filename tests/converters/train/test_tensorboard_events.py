"""Event files: TensorBoard's own reader finds in them what was written."""

import struct

import pytest

from edgekit_converters.train.tensorboard_events import EventFile, _checksum


def test_the_checksum_is_crc_32c_masked():
    crc = 0xE3069283  # of "123456789": the check value of CRC-32C
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert _checksum(b"123456789") == struct.pack("<I", masked)


@pytest.mark.needs_tensorboard
def test_tensorboard_reads_the_scalars_of_every_epoch(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for epochs in ((1, 2), (3,)):  # a training, and the same one resumed
        events = EventFile(tmp_path / "run")
        for epoch in epochs:
            events.scalars(epoch, {"loss": 1 / epoch, "held-out/accuracy": 300 * epoch})
        events.close()
        events.path.rename(events.path.with_name(f"{events.path.name}.{epochs[0]}"))
    found = EventAccumulator(str(tmp_path / "run")).Reload()
    assert found.Tags()["scalars"] == ["loss", "held-out/accuracy"]
    assert [(one.step, one.value) for one in found.Scalars("held-out/accuracy")] == [(1, 300), (2, 600), (3, 900)]
    assert [one.value for one in found.Scalars("loss")] == pytest.approx([1, 1 / 2, 1 / 3])
    assert all(one.wall_time > 1.7e9 for one in found.Scalars("loss"))
