"""Conversions that are killed, interrupted or run out of disk: one message, the right code, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.needs_keras, pytest.mark.needs_rich]


@pytest.fixture
def start(demo, tmp_path):
    """Start a conversion of the demo model; its bundle goes to ``out/``, its scratch files to ``scratch/``."""
    for folder in ("out", "scratch"):
        (tmp_path / folder).mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "scratch"), "EDGEKIT_CACHE": str(tmp_path / "cache")}
    running = []

    def begin(output=tmp_path / "out" / "digits.edgekit", **changes):
        command = [sys.executable, "-m", "edgekit", "convert", demo / "digits.keras", "-o", output]
        command += ["-d", "raspberry-pi-5", "--report", tmp_path / "out" / "report.json", "--no-cache"]
        process = subprocess.Popen(
            list(map(str, command)),
            env=environment | changes,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def children(pid):
    """The process ids of a process's children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if stat.read_text().rpartition(")")[2].split()[1] == str(pid):
                found.append(int(stat.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def wait_for_child(process):
    """The child that loads the model: one for the engine is there first."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        found = children(process.pid)
        if len(found) == 2:
            return max(found)
        time.sleep(0.01)
    raise AssertionError(f"the child processes did not appear: {process.communicate()}")


def left_behind(tmp_path):
    return [str(path) for folder in ("out", "scratch") for path in (tmp_path / folder).rglob("*")]


def test_a_toolchain_killed_half_way_is_one_readable_error(start, tmp_path):
    process = start()
    os.kill(wait_for_child(process), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "load (keras)" in said
    assert "SIGKILL" in said
    assert ".log" in said
    assert "Traceback" not in said
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_its_children_and_leaves_nothing(start, tmp_path, number):
    process = start()
    child = wait_for_child(process)
    time.sleep(1.0)  # into the toolchain's import
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.strip() == "interrupted; nothing was written"
    assert not Path(f"/proc/{child}").exists()
    assert left_behind(tmp_path) == []


def test_a_full_disk_is_said_and_leaves_what_was_there(start, small_disk):
    before = small_disk / "digits.edgekit"
    before.write_bytes(b"the bundle of last time")
    process = start(before)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 4
    assert "No space left on device" in said
    assert "free some space" in said
    assert before.read_bytes() == b"the bundle of last time"
    assert list(small_disk.iterdir()) == [before]


def test_a_full_scratch_disk_is_said(start, small_disk, tmp_path):
    process = start(TMPDIR=str(small_disk))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 4
    assert "No space left on device" in said
    assert "Traceback" not in said
    assert list(small_disk.iterdir()) == []
    assert not (tmp_path / "out" / "digits.edgekit").exists()
