"""The private temporary folder is removed however the process ends, and no other folder is."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit_runtime import open_bundle
from edgekit_runtime.bundle.temp_folder import TempFolder
from edgekit_runtime.errors import EngineUnavailable

FORGOTTEN = (
    "from edgekit_runtime.bundle.temp_folder import TempFolder; "
    "kept = TempFolder(); open(kept.path + '/x', 'w'); print(kept.path)"
)


def test_the_folder_is_private_and_removed_with_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    scratch = TempFolder()
    path = Path(scratch.path)
    assert path.parent == tmp_path
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    (path / "a").mkdir()
    (path / "a" / "b").write_text("c", encoding="utf-8")
    scratch.remove()
    scratch.remove()
    assert not path.exists()


def test_the_folder_is_removed_when_the_process_ends() -> None:
    done = subprocess.run([sys.executable, "-c", FORGOTTEN], check=True, capture_output=True, text=True)
    assert done.stdout.strip()
    assert not os.path.exists(done.stdout.strip())


def test_a_link_to_a_folder_is_removed_but_not_its_target(tmp_path: Path) -> None:
    scratch = TempFolder()
    (tmp_path / "kept").mkdir()
    os.symlink(tmp_path / "kept", os.path.join(scratch.path, "link"))
    scratch.remove()
    assert not os.path.lexists(scratch.path)
    assert (tmp_path / "kept").is_dir()


def test_a_process_without_a_working_folder_gets_a_temp_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    scratch = TempFolder()
    assert os.path.isdir(scratch.path)
    scratch.remove()


def test_a_full_disk_is_reported_and_the_partial_file_removed() -> None:
    scratch = TempFolder()

    def fill(write: Callable[[bytes], Any]) -> None:
        write(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(EngineUnavailable, match=rf"a/b cannot be written to {scratch.path}: No space left.*TMPDIR"):
        scratch.write("a/b", fill)
    assert os.listdir(os.path.join(scratch.path, "a")) == []
    scratch.remove()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_full_disk_is_not_reported_as_a_damaged_bundle(bundle_path: Path) -> None:
    with open_bundle(bundle_path) as bundle:
        full = os.path.join(bundle.temp_folder(), "variants", "null-float32")
        os.makedirs(full)
        os.symlink("/dev/full", os.path.join(full, "weights.npy"))
        with pytest.raises(EngineUnavailable, match="No space left on device"):
            bundle.local_path("variants/null-float32/weights.npy")


def test_a_folder_that_cannot_be_written_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    scratch = TempFolder()
    assert os.path.isdir(scratch.path)
    scratch.remove()
