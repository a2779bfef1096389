"""A bundle can be opened from a file or a folder, and its files are checked before they are returned."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit_runtime import open_bundle
from edgekit_runtime.errors import DigestMismatch, MalformedBundle

Make = Callable[..., Path]
WEIGHTS = "variants/null-float32/weights.npy"


@pytest.fixture(params=["file", "folder"])
def path(make: Make, request: pytest.FixtureRequest) -> Path:
    """The classifier, once in each form."""
    return make(folder=request.param == "folder")


def test_read_array_and_local_path_return_the_content(path: Path, files: dict[str, bytes], weights: np.ndarray) -> None:
    with open_bundle(path) as bundle:
        assert bundle.manifest.model_name == "quarters"
        assert bundle.read("labels.txt") == files["labels.txt"]
        assert Path(bundle.local_path(WEIGHTS)).read_bytes() == files[WEIGHTS]
        array = bundle.array(WEIGHTS)
        np.testing.assert_array_equal(array, weights)
        assert not array.flags.writeable
        assert array.flags.aligned
        bundle.verify_all()


def test_arrays_outlive_the_bundle(path: Path, weights: np.ndarray) -> None:
    with open_bundle(path) as bundle:
        array = bundle.array(WEIGHTS)
    np.testing.assert_array_equal(array, weights)


def test_files_of_an_archive_are_copied_to_a_private_folder_and_removed(bundle_path: Path) -> None:
    with open_bundle(bundle_path) as bundle:
        taken = Path(bundle.local_path(WEIGHTS))
        assert taken == Path(bundle.local_path(WEIGHTS))
        assert taken.parts[-3:] == tuple(WEIGHTS.split("/"))
        root = taken.parents[2]
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
        assert taken.is_relative_to(root)
    assert not root.exists()
    with bundle:
        assert Path(bundle.local_path(WEIGHTS)).exists()  # it may be opened again


def test_a_folder_returns_paths_of_its_own_files(make: Make) -> None:
    path = make(folder=True)
    with open_bundle(path) as bundle:
        assert bundle.local_path(WEIGHTS) == os.path.join(os.path.realpath(path), WEIGHTS)


def test_a_link_to_a_folder_can_be_opened(make: Make, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(make(folder=True), target_is_directory=True)
    with open_bundle(link) as bundle:
        bundle.verify_all()


@pytest.mark.parametrize("use", ["read", "array", "local_path", "verify_all"])
def test_a_changed_file_is_refused(make: Make, files: dict[str, bytes], use: str) -> None:
    path = make(folder=True)
    changed = bytearray(files[WEIGHTS])
    changed[-1] ^= 1
    (path / WEIGHTS).write_bytes(changed)
    with open_bundle(path) as bundle:
        bundle.read("labels.txt")
        with pytest.raises(DigestMismatch, match=r"weights\.npy is not the file that was packed"):
            getattr(bundle, use)(*([] if use == "verify_all" else [WEIGHTS]))


def test_a_file_that_shrinks_after_opening_is_refused(make: Make) -> None:
    path = make(folder=True)
    with open_bundle(path) as bundle:
        (path / WEIGHTS).write_bytes(b"\x93NUMPY")
        for use in (bundle.read, bundle.array, bundle.local_path):
            with pytest.raises((DigestMismatch, MalformedBundle), match=r"weights\.npy"):
                use(WEIGHTS)


def test_a_file_that_vanishes_after_opening_is_named(make: Make) -> None:
    path = make(folder=True)
    with open_bundle(path) as bundle:
        (path / WEIGHTS).unlink()
        with pytest.raises(MalformedBundle, match=r"weights\.npy: cannot be read"):
            bundle.read(WEIGHTS)


def test_only_listed_paths_can_be_read(bundle_path: Path) -> None:
    with open_bundle(bundle_path) as bundle:
        for path in ("manifest.json", "nowhere", "../bundle.edgekit"):
            with pytest.raises(MalformedBundle, match="is not in the manifest's files"):
                bundle.read(path)


@pytest.mark.parametrize("array", [np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.zeros((0, 3)), np.float32(5)])
def test_arrays_of_any_order_and_size(make: Make, npy: Callable[..., bytes], array: np.ndarray) -> None:
    with open_bundle(make(also={"extra.npy": npy(array)})) as bundle:
        found = bundle.array("extra.npy")
    np.testing.assert_array_equal(found, array)
    assert (found.shape, found.dtype) == (array.shape, array.dtype)


@pytest.mark.parametrize("content", [None, b"", b"PK", b"not a bundle at all, but longer than a record"])
def test_a_file_that_is_not_a_bundle_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.edgekit"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MalformedBundle, match=r"model\.edgekit"):
        open_bundle(path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MalformedBundle, match=r"no manifest\.json"):
        open_bundle(tmp_path)
