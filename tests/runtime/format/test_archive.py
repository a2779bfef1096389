"""The archive is a ZIP that other programs read; the runtime reads only the one valid form. See also tests/attacks/."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgekit_runtime.errors import MalformedBundle
from edgekit_runtime.format.archive import ALIGNMENT_BYTES, read_entries


def test_zipfile_reads_the_archive(bundle_path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(bundle_path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["manifest.json", *sorted(files)]
        assert {name: archive.read(name) for name in files} == files


def test_contents_are_aligned_and_stored(bundle_path: Path, files: dict[str, bytes]) -> None:
    data = bundle_path.read_bytes()
    with bundle_path.open("rb") as file:
        entries = read_entries(file, "it")
    for entry in entries[1:]:
        assert entry.data_offset % ALIGNMENT_BYTES == 0
        assert data[entry.data_offset : entry.end_offset] == files[entry.path]


def test_archives_of_other_programs_are_refused(bundle_path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.edgekit"
    with zipfile.ZipFile(bundle_path) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with other.open("rb") as file, pytest.raises(MalformedBundle, match=r"must be"):
        read_entries(file, "other.edgekit")


def test_importing_the_reader_loads_no_zip_library() -> None:
    code = "import sys, edgekit_runtime.format.archive; sys.exit('zipfile' in sys.modules or 'zlib' in sys.modules)"
    subprocess.run([sys.executable, "-S", "-c", code], check=True, env={"PYTHONPATH": _runtime_path()})


def _runtime_path() -> str:
    import edgekit_runtime

    return str(Path(edgekit_runtime.__file__).parents[1])
