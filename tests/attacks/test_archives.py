"""Hostile archives: each is refused with a BundleError when it is opened."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgekit_runtime
from edgekit_runtime import open_bundle
from edgekit_runtime.errors import BundleError, MalformedBundle

Archive = Callable[..., Path]


def refused(path: Path, said: str) -> None:
    with pytest.raises(MalformedBundle, match=said) as refusal:
        open_bundle(path)
    assert path.name in str(refusal.value)


def test_the_valid_archive_opens_and_runs(tiny: Any, archive: Archive) -> None:
    with edgekit_runtime.load(archive(tiny.entries())) as model:
        assert model([[[1.0, 2.0]]]).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("path", ["../../escaped", "/etc/cron.d/escaped", "variants/../../escaped", "C:\\escaped"])
def test_a_path_outside_the_bundle(tiny: Any, archive: Archive, path: str, tmp_path: Path) -> None:
    tiny.files[path] = b"payload"
    tiny.list_files()
    refused(archive(tiny.entries()), r"path")
    assert not list(tmp_path.parent.rglob("escaped"))


def test_a_path_changed_only_in_the_local_header(tiny: Any, archive: Archive) -> None:
    entries = tiny.entries()
    entries[1].local_path = b"../olden/x.npy"[: len(entries[1].path)]
    refused(archive(entries), "header of golden/x.npy")


@pytest.mark.parametrize("mode", [0o120777, 0o060644, 0o010644, 0o040755], ids=["link", "device", "pipe", "folder"])
def test_a_link_or_special_file(tiny: Any, archive: Archive, mode: int) -> None:
    entries = tiny.entries()
    entries[3].central["external"] = mode << 16
    refused(archive(entries), "external_attributes")


def test_the_same_file_twice(tiny: Any, archive: Archive) -> None:
    entries = tiny.entries()
    refused(archive([*entries, entries[-1]]), "twice")


def test_a_second_manifest(tiny: Any, archive: Archive) -> None:
    entries = tiny.entries()
    refused(archive([*entries, entries[0]]), "twice")


def test_entries_that_overlap(tiny: Any, archive: Archive) -> None:
    entries = tiny.entries()
    entries[2].offset = 0
    refused(archive(entries), "header_offset")


def test_one_content_shared_by_many_entries(tiny: Any, archive: Archive) -> None:
    entries = tiny.entries()
    data = archive(entries)
    entries[2].offset = data.read_bytes().index(b"PK\3\4", 10)  # the second header again
    refused(archive(entries), "header_offset")


@pytest.mark.parametrize("where", ["before", "between"])
def test_hidden_bytes(tiny: Any, archive: Archive, where: str) -> None:
    entries = tiny.entries()
    if where == "between":
        entries[2].between = b"\0" * 64
        refused(archive(entries), "header_offset")
    else:
        refused(archive(entries, before=b"#!/bin/sh\n".ljust(64)), "header_offset")


def test_hidden_bytes_before_the_directory(tiny: Any, archive: Archive) -> None:
    entries = tiny.entries()
    whole = archive(entries).read_bytes()
    start = whole.index(b"PK\1\2")
    spoiled = whole[:start] + b"hidden.." + whole[start:-6] + (start + 8).to_bytes(4, "little") + b"\0\0"
    path = archive(entries)
    path.write_bytes(spoiled)
    refused(path, "belong to no file")


def test_bytes_in_the_padding(tiny: Any, archive: Archive) -> None:
    path = archive(tiny.entries())
    data = bytearray(path.read_bytes())
    first = data.index(b"manifest.json") + len(b"manifest.json")
    data[first + 8] = 1
    path.write_bytes(data)
    refused(path, "header of manifest.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [("compression", 8), ("flags", 1), ("flags", 8), ("version", 45), ("date", 34), ("comment", 3), ("disk", 1)],
)
def test_an_unexpected_header_field(tiny: Any, archive: Archive, field: str, value: int) -> None:
    entries = tiny.entries()
    entries[1].central[field] = value
    if field not in ("comment", "disk"):
        entries[1].local[field] = value
    refused(archive(entries), "must be")


def test_a_compressed_bomb(tiny: Any, archive: Archive) -> None:
    entries = tiny.entries()
    entries[1].content = zlib.compress(bytes(1 << 24), 9)
    for header in (entries[1].local, entries[1].central):
        header |= {"compression": 8, "size": 1 << 30, "stored": len(entries[1].content)}
    refused(archive(entries), "compression is 8")


def test_a_size_beyond_the_end_of_the_file(tiny: Any, archive: Archive) -> None:
    entries = tiny.entries()
    for header in (entries[-1].local, entries[-1].central):
        header |= {"size": 0xFFFFFFFF, "stored": 0xFFFFFFFF}
    refused(archive(entries), "belong to no file")


@pytest.mark.parametrize(
    "end",
    [
        {"count": 0xFFFF, "here": 0xFFFF},
        {"size": 0xFFFFFFFF},
        {"start": 0},
        {"count": 1, "here": 1},
        {"count": 5, "here": 4},
        {"disk": 1},
        {"comment": 1},
    ],
    ids=str,
)
def test_a_wrong_end_record(tiny: Any, archive: Archive, end: dict[str, int]) -> None:
    refused(archive(tiny.entries(), end=end), "hostile")


def test_an_empty_archive(archive: Archive) -> None:
    refused(archive([]), r"manifest\.json is not its first file")


def test_a_manifest_that_is_not_the_first_entry(tiny: Any, archive: Archive) -> None:
    manifest, *others = tiny.entries()
    refused(archive([*others, manifest]), r"manifest\.json is not its first file")


def test_every_truncation(tiny: Any, archive: Archive) -> None:
    path = archive(tiny.entries())
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(BundleError):
            open_bundle(path)


def test_bytes_after_the_end(tiny: Any, archive: Archive) -> None:
    path = archive(tiny.entries())
    path.write_bytes(path.read_bytes() + b"\0")
    refused(path, "no end record")


def test_every_byte_with_a_bit_flipped(tiny: Any, archive: Archive) -> None:
    path = archive(tiny.entries())
    data = bytearray(path.read_bytes())
    bits = random.Random(0)
    for position in range(len(data)):
        bit = 1 << bits.randrange(8)
        data[position] ^= bit
        path.write_bytes(data)
        with pytest.raises(BundleError):
            open_bundle(path).verify_all()
        data[position] ^= bit
    path.write_bytes(data)
    open_bundle(path).verify_all()


def test_refusing_costs_no_memory(tiny: Any, archive: Archive) -> None:
    entries = tiny.entries()
    entries[0].content = b" " * (1 << 21) + entries[0].content  # over the manifest's bound
    path = archive(entries)
    with path.open("ab") as file:
        file.truncate(1 << 40)  # sparse: a terabyte that takes no place
    code = (
        "import resource, sys, numpy, edgekit_runtime\n"
        "from edgekit_runtime.errors import MalformedBundle\n"
        "edgekit_runtime.open_bundle\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (1 << 28, 1 << 28))\n"
        "try: edgekit_runtime.open_bundle(sys.argv[1])\n"
        "except MalformedBundle: sys.exit(42)"
    )
    assert resource.RLIMIT_DATA is not None
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 42, done.stderr


def test_a_pipe_instead_of_a_bundle(tmp_path: Path) -> None:
    refused(Path("/dev/null"), "null")
