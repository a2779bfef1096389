"""A private folder that is gone afterwards, however the process ends, and never another's."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit_runtime.scratch import Scratch

FORGOTTEN = (
    "from edgekit_runtime.scratch import Scratch; kept = Scratch(); open(kept.path + '/x', 'w'); print(kept.path)"
)


def test_it_is_private_and_goes_with_all_that_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    scratch = Scratch()
    path = Path(scratch.path)
    assert path.parent == tmp_path
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    (path / "a").mkdir()
    (path / "a" / "b").write_text("c", encoding="utf-8")
    scratch.remove()
    scratch.remove()
    assert not path.exists()


def test_it_goes_with_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", FORGOTTEN], check=True, capture_output=True, text=True)
    assert done.stdout.strip()
    assert not os.path.exists(done.stdout.strip())


def test_a_place_that_takes_nothing_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    scratch = Scratch()
    assert os.path.isdir(scratch.path)
    scratch.remove()
