"""Writing bundles: reproducible, and complete or not written."""

from __future__ import annotations

import errno
import io
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle import writer
from edgekit.bundle.writer import write_bundle
from edgekit_runtime import open_bundle
from edgekit_runtime.errors import DigestMismatch, MalformedBundle
from edgekit_runtime.format.manifest import Golden, InputSpec, Manifest, OutputSpec, TensorBinding, Variant


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


BINDING = TensorBinding(0, "x", "float32")
VARIANT = Variant(
    "v", "null", "cpu", "float32", ("variants/v/eye.npy",), (BINDING,), (BINDING,), Golden(("golden/y.npy",), (0.0,))
)
MANIFEST = Manifest(
    "tiny",
    "1",
    (InputSpec("x", (1, 2), "float32"),),
    (OutputSpec("y", (1, 2), "float32"),),
    (VARIANT,),
    (),
    ("golden/x.npy",),
)
FILES = {
    "variants/v/eye.npy": npy(np.eye(2, dtype=np.float32)),
    "golden/y.npy": npy(np.zeros((1, 1, 2), np.float32)),
    "golden/x.npy": npy(np.zeros((1, 1, 2), np.float32)),
}


def left(folder: Path) -> list[str]:
    """Return all names in a folder, including hidden ones."""
    return sorted(os.listdir(folder))


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    write_bundle(MANIFEST, FILES, tmp_path / "a.edgekit")
    os.utime(tmp_path, (0, 0))
    write_bundle(MANIFEST, dict(reversed(FILES.items())), tmp_path / "b.edgekit")
    assert (tmp_path / "a.edgekit").read_bytes() == (tmp_path / "b.edgekit").read_bytes()


def test_files_and_bytes_are_the_same_content(tmp_path: Path) -> None:
    paths = {}
    for i, (path, data) in enumerate(FILES.items()):
        paths[path] = tmp_path / str(i)
        paths[path].write_bytes(data)
        paths[path].chmod(0o600)
    write_bundle(MANIFEST, paths, tmp_path / "a.edgekit")
    write_bundle(MANIFEST, FILES, tmp_path / "b.edgekit")
    assert (tmp_path / "a.edgekit").read_bytes() == (tmp_path / "b.edgekit").read_bytes()


def test_the_manifest_comes_back_with_its_files(tmp_path: Path) -> None:
    written = write_bundle(MANIFEST, FILES, tmp_path / "a.edgekit")
    assert [(record.path, record.size_bytes) for record in written.files] == [
        (path, len(FILES[path])) for path in sorted(FILES)
    ]
    with open_bundle(tmp_path / "a.edgekit") as bundle:
        assert bundle.manifest == written


@pytest.mark.parametrize("how", ["slash", "asked"])
def test_a_folder_has_the_same_files(tmp_path: Path, how: str) -> None:
    out = f"{tmp_path / 'tree'}/" if how == "slash" else tmp_path / "tree"
    written = write_bundle(MANIFEST, FILES, out, as_directory=how == "asked")
    with open_bundle(tmp_path / "tree") as bundle:
        assert bundle.manifest == written
        bundle.verify_all()
    assert left(tmp_path) == ["tree"]


def test_the_file_modes_follow_the_umask(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        write_bundle(MANIFEST, FILES, tmp_path / "a.edgekit")
        write_bundle(MANIFEST, FILES, tmp_path / "tree", as_directory=True)
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "a.edgekit").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "tree").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "tree" / "manifest.json").stat().st_mode) == 0o644


def test_an_older_bundle_is_replaced_and_a_folder_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.edgekit").write_bytes(b"old")
    write_bundle(MANIFEST, FILES, tmp_path / "a.edgekit")
    open_bundle(tmp_path / "a.edgekit").verify_all()
    write_bundle(MANIFEST, FILES, tmp_path / "tree", as_directory=True)
    with pytest.raises(FileExistsError, match="tree exists already"):
        write_bundle(MANIFEST, FILES, tmp_path / "tree", as_directory=True)
    assert left(tmp_path) == ["a.edgekit", "tree"]


@pytest.mark.parametrize(
    ("manifest", "files", "said"),
    [
        (MANIFEST, {k: v for k, v in FILES.items() if k != "golden/y.npy"}, r"golden/y\.npy.*not listed"),
        (MANIFEST, {**FILES, "../escape": b""}, r"files\[\d\]\.path"),
        (MANIFEST, {**FILES, "manifest.json": b"{}"}, "reserved"),
        (replace(MANIFEST, model_name=""), FILES, r"model\.name"),
        (replace(MANIFEST, recipe={"loss": float("nan")}), FILES, "cannot be written"),
    ],
)
def test_invalid_bundles_are_not_written(
    tmp_path: Path, manifest: Manifest, files: dict[str, bytes], said: str
) -> None:
    (tmp_path / "a.edgekit").write_bytes(b"old")
    for out, as_directory in (("a.edgekit", False), ("tree", True)):
        with pytest.raises(MalformedBundle, match=said):
            write_bundle(manifest, files, tmp_path / out, as_directory=as_directory)
    assert left(tmp_path) == ["a.edgekit"]
    assert (tmp_path / "a.edgekit").read_bytes() == b"old"


def test_a_missing_input_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_bundle(MANIFEST, {**FILES, "extra": tmp_path / "nowhere"}, tmp_path / "a.edgekit")
    assert left(tmp_path) == []


@pytest.mark.parametrize("as_directory", [False, True])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_at_any_flush_leaves_the_old_or_the_new_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_directory: bool, error: BaseException
) -> None:
    real = os.fsync
    flushes = 9 if as_directory else 2  # four files and four folders, or the archive; then the parent
    for good in range(flushes):
        folder = tmp_path / str(good)
        folder.mkdir()
        if not as_directory:
            (folder / "bundle").write_bytes(b"old")
        calls = iter(range(good))

        def flush(descriptor: int, calls: Iterator[int] = calls) -> None:
            if next(calls, None) is None:
                raise error
            real(descriptor)

        monkeypatch.setattr(os, "fsync", flush)
        with pytest.raises(type(error)):
            write_bundle(MANIFEST, FILES, folder / "bundle", as_directory=as_directory)
        monkeypatch.setattr(os, "fsync", real)
        if left(folder) and (as_directory or (folder / "bundle").read_bytes() != b"old"):
            assert good == flushes - 1
            open_bundle(folder / "bundle").verify_all()
        assert left(folder) in ([], ["bundle"])


def test_a_full_disk_leaves_no_files(tmp_path: Path) -> None:
    """The process may write no file larger than 100 kB."""
    code = (
        "import resource, signal, sys\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "import runpy; tiny = runpy.run_path(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "files = {**tiny['FILES'], 'big.bin': bytes(200_000)}\n"
        "try: tiny['write_bundle'](tiny['MANIFEST'], files, sys.argv[2])\n"
        "except OSError as error: sys.exit(error.errno)\n"
    )
    command = [sys.executable, "-c", code, __file__, str(tmp_path / "a.edgekit")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == errno.EFBIG, done.stderr
    assert left(tmp_path) == []


def test_an_interrupt_leaves_no_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "big.bin").write_bytes(b"")
    os.truncate(tmp_path / "big.bin", 1 << 29)  # sparse, and long enough to be interrupted in writing it
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "import pathlib, runpy; tiny = runpy.run_path(sys.argv[1])\n"
        "files = {**tiny['FILES'], 'big.bin': pathlib.Path(sys.argv[2])}\n"
        "tiny['write_bundle'](tiny['MANIFEST'], files, sys.argv[3])\n"
    )
    command = [sys.executable, "-c", code, __file__, str(tmp_path / "big.bin"), str(out / "a.edgekit")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        while not any(path.stat().st_size > 1 << 20 for path in out.rglob("a.edgekit")):  # well into it
            assert child.poll() is None
            time.sleep(0.001)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=120)
    assert "KeyboardInterrupt" in err
    assert left(out) == []


def test_a_file_that_changes_during_writing_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moving = tmp_path / "moving"
    moving.write_bytes(b"one")
    real = writer.manifest_to_json

    def change_then(manifest: Manifest) -> bytes:
        moving.write_bytes(b"two")
        return real(manifest)

    monkeypatch.setattr(writer, "manifest_to_json", change_then)
    with pytest.raises(DigestMismatch, match="moving is not the file that was packed"):
        write_bundle(MANIFEST, {**FILES, "moving": moving}, tmp_path / "a.edgekit")
    assert left(tmp_path) == ["moving"]
