"""Hostile folders: other users may have changed the bundle on a board."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit_runtime import open_bundle
from edgekit_runtime.errors import DigestMismatch, MalformedBundle

Folder = Callable[[Any], Path]


def test_the_valid_folder_opens(tiny: Any, folder: Folder) -> None:
    open_bundle(folder(tiny)).verify_all()


@pytest.mark.parametrize("victim", ["golden/x.npy", "manifest.json"])
def test_a_link_instead_of_a_file(tiny: Any, folder: Folder, tmp_path: Path, victim: str) -> None:
    root = folder(tiny)
    (tmp_path / "elsewhere").write_bytes((root / victim).read_bytes())
    (root / victim).unlink()
    (root / victim).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MalformedBundle, match="is a link or a special file"):
        open_bundle(root)


def test_a_link_instead_of_a_folder(tiny: Any, folder: Folder, tmp_path: Path) -> None:
    root = folder(tiny)
    (root / "golden").rename(tmp_path / "elsewhere")
    (root / "golden").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(MalformedBundle, match="is a link or a special file"):
        open_bundle(root)


def test_a_link_to_itself(tiny: Any, folder: Folder) -> None:
    root = folder(tiny)
    (root / "loop").symlink_to("loop")
    with pytest.raises(MalformedBundle, match="is a link or a special file"):
        open_bundle(root)


def test_a_pipe_that_would_hang_the_reader(tiny: Any, folder: Folder) -> None:
    root = folder(tiny)
    (root / "golden/x.npy").unlink()
    os.mkfifo(root / "golden/x.npy")
    with pytest.raises(MalformedBundle, match="is a link or a special file"):
        open_bundle(root)


def test_an_unlisted_file(tiny: Any, folder: Folder) -> None:
    root = folder(tiny)
    (root / "variants/v/libdelegate.so").write_bytes(b"\x7fELF")
    with pytest.raises(MalformedBundle, match=r"libdelegate\.so' is in the bundle and not in its manifest"):
        open_bundle(root)


def test_a_missing_file_or_a_folder_instead(tiny: Any, folder: Folder) -> None:
    root = folder(tiny)
    (root / "golden/x.npy").unlink()
    (root / "golden/x.npy").mkdir()
    with pytest.raises(MalformedBundle, match="not in the bundle"):
        open_bundle(root)


def test_a_file_with_other_content(tiny: Any, folder: Folder) -> None:
    root = folder(tiny)
    (root / "golden/x.npy").write_bytes(bytes(136))
    with pytest.raises(DigestMismatch, match=r"golden/x\.npy"):
        open_bundle(root).verify_all()


def test_deeply_nested_folders(tiny: Any, folder: Folder) -> None:
    root = folder(tiny)
    (root / "/".join("abcdefghijkl")).mkdir(parents=True)
    with pytest.raises(MalformedBundle, match="nested deeper"):
        open_bundle(root)


def test_a_huge_sparse_manifest(tiny: Any, folder: Folder) -> None:
    root = folder(tiny)
    with (root / "manifest.json").open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(MalformedBundle, match="over the limit"):
        open_bundle(root)
