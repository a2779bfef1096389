"""Hostile manifests in valid archives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgekit_runtime
from edgekit_runtime import open_bundle
from edgekit_runtime.errors import BundleError, DigestMismatch, MalformedBundle

Archive = Callable[..., Path]
HUGE = 1 << 70


def test_an_unlisted_file(tiny: Any, archive: Archive) -> None:
    tiny.files["extra.so"] = b"\x7fELF"
    with pytest.raises(MalformedBundle, match=r"'extra\.so' is in the bundle and not in its manifest"):
        open_bundle(archive(tiny.entries()))


def test_a_missing_file(tiny: Any, archive: Archive) -> None:
    with pytest.raises(MalformedBundle, match=r"is in the manifest and not in the bundle"):
        open_bundle(archive(tiny.entries()[:-1]))


def test_a_file_with_another_size(tiny: Any, archive: Archive) -> None:
    tiny.files["golden/x.npy"] += b"\0"
    with pytest.raises(MalformedBundle, match=r"has 137 bytes where the manifest says 136"):
        open_bundle(archive(tiny.entries()))


@pytest.mark.parametrize("path", ["golden/x.npy", "golden/y.npy", "variants/v/eye.npy"])
def test_a_file_with_other_content_is_not_used(tiny: Any, archive: Archive, path: str) -> None:
    tiny.files[path] = tiny.files[path][:-1] + b"\x40"
    hostile = archive(tiny.entries())
    with pytest.raises(DigestMismatch, match=path):
        edgekit_runtime.load(hostile)
    with pytest.raises(DigestMismatch, match=path):
        open_bundle(hostile).verify_all()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}",
        b'{"format_version": 1, "model": "\xff"}',
        b'{"format_version": 1, "format_version": 1}',
        b'{"a": "\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": ' + b"9" * 100_000 + b"}",
        b'{"a": 1e999}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b" " * ((1 << 20) + 1),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_invalid_json(tiny: Any, archive: Archive, text: bytes) -> None:
    with pytest.raises(MalformedBundle, match=r"manifest\.json"):
        open_bundle(archive(tiny.entries(text)))


def test_brackets_in_strings_do_not_count_as_depth(tiny: Any, archive: Archive) -> None:
    tiny.document["recipe"] = {"note": '[[[["\\' * 50}
    open_bundle(archive(tiny.entries())).close()


def test_depth_hidden_after_an_escaped_quote(tiny: Any, archive: Archive) -> None:
    deep = '{"a\\"": ' * 5000 + "1" + "}" * 5000
    with pytest.raises(MalformedBundle, match="deeper than"):
        open_bundle(archive(tiny.entries(deep.encode())))


@pytest.mark.parametrize("tolerance", ["NaN", "Infinity", "1e400", "1e10", "[1e10, 0]", "-1", "null", '"1"', "true"])
def test_a_tolerance_that_accepts_everything(tiny: Any, archive: Archive, tolerance: str) -> None:
    text = json.dumps(tiny.document).replace('"max_abs": [0.0]', f'"max_abs": [{tolerance}]')
    with pytest.raises(MalformedBundle, match=r"manifest\.json"):
        open_bundle(archive(tiny.entries(text.encode())))


@pytest.mark.parametrize("size", [HUGE, -1, 1 << 33, 136.0, "136", None, True])
def test_an_invalid_size(tiny: Any, archive: Archive, size: Any) -> None:
    tiny.document["files"][0]["size_bytes"] = size
    with pytest.raises(MalformedBundle, match=r"manifest\.json"):
        open_bundle(archive(tiny.entries()))


@pytest.mark.parametrize("shape", [[HUGE], [1 << 16, 1 << 16], [0], [-1], [1] * 40, [1.0, 2.0], "12", [[1, 2]]])
def test_a_shape_that_needs_too_much_memory(tiny: Any, archive: Archive, shape: Any) -> None:
    tiny.document["inputs"][0]["shape"] = shape
    with pytest.raises(MalformedBundle, match=r"manifest\.json: (inputs\[0\]\.shape|is not JSON.*too large)"):
        open_bundle(archive(tiny.entries()))


def test_more_files_than_allowed(tiny: Any, archive: Archive) -> None:
    tiny.files |= {f"more/{i}": b"" for i in range(1100)}
    tiny.list_files()
    with pytest.raises(MalformedBundle):
        open_bundle(archive(tiny.entries()))


def test_labels_that_name_the_manifest(tiny: Any, archive: Archive) -> None:
    tiny.document["outputs"][0]["labels"] = "manifest.json"
    with pytest.raises(BundleError, match="is not listed"):
        open_bundle(archive(tiny.entries()))
