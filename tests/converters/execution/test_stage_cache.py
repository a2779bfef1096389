"""The cache: equal content is found, changed content is not, damage is thrown away, size is bounded."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from edgekit_converters.execution import stage_cache as caching
from edgekit_converters.execution.stage_cache import Cache, key
from edgekit_converters.records import Probe, SourceRequest


@dataclass(frozen=True)
class Prepared:
    sha256: str
    path: Path


@pytest.fixture
def made(tmp_path):
    """A stage's folder with one file, and the record that names it."""
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "a.npy").write_bytes(b"content")
    return Probe((folder / "a.npy",), ()), folder


def test_a_stored_record_is_found_with_its_files(tmp_path, made):
    cache = Cache(tmp_path / "cache")
    record, folder = made
    kept = cache.put("k", record, folder)
    (folder / "a.npy").unlink()
    assert kept.inputs[0].read_bytes() == b"content"
    assert cache.get("k") == kept
    assert cache.get("other") is None


def test_a_damaged_entry_is_thrown_away(tmp_path, made):
    cache = Cache(tmp_path / "cache")
    kept = cache.put("k", *made)
    kept.inputs[0].write_bytes(b"contenT")
    assert cache.get("k") is None
    assert not (tmp_path / "cache" / "k").exists()


@pytest.mark.parametrize("name", ["record.json", "digests.json"])
@pytest.mark.parametrize("content", ["", "{", "{}", '{"$record": "os:system"}', "null"])
def test_a_damaged_record_is_never_used(tmp_path, made, name, content):
    cache = Cache(tmp_path / "cache")
    cache.put("k", *made)
    (tmp_path / "cache" / "k" / name).write_text(content)
    assert cache.get("k") is None


def test_an_entry_is_stale_when_a_file_outside_it_changes(tmp_path, made):
    code = tmp_path / "net.py"
    code.write_text("width = 1")
    _, folder = made
    cache = Cache(tmp_path / "cache")
    cache.put("k", Probe((folder / "a.npy", code), ()), folder)
    assert cache.get("k") is not None
    code.write_text("width = 2")
    assert cache.get("k") is None


def test_the_key_is_of_content_options_and_versions(tmp_path):
    one, same, other = (tmp_path / name for name in ("one.h5", "same.h5", "other.h5"))
    one.write_text("model")
    same.write_text("model")
    other.write_text("another model")
    request = SourceRequest("keras", one)
    assert key("load", request, {"a": "1"}) == key("load", replace(request, path=same), {"a": "1"})
    different = [
        key("lower", request, {"a": "1"}),
        key("load", replace(request, path=other), {"a": "1"}),
        key("load", replace(request, keep_layout=True), {"a": "1"}),
        key("load", request, {"a": "2"}),
    ]
    assert len({key("load", request, {"a": "1"}), *different}) == 5


def test_a_file_changed_in_place_gives_another_key(tmp_path):
    model = tmp_path / "m.h5"
    model.write_text("1234")
    before = key("load", SourceRequest("keras", model), {})
    model.write_text("1235")
    os.utime(model, ns=(1, 1))
    assert key("load", SourceRequest("keras", model), {}) != before


def test_a_record_that_carries_its_digest_stands_for_its_content(tmp_path):
    assert key("s", Prepared("d1", tmp_path / "gone"), {}) == key("s", Prepared("d1", tmp_path / "moved"), {})
    assert key("s", Prepared("d1", tmp_path / "gone"), {}) != key("s", Prepared("d2", tmp_path / "gone"), {})


def test_a_folder_counts_by_names_and_contents(tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "a").write_text("1")
    before = caching.digest(folder)
    (folder / "a").rename(folder / "b")
    assert caching.digest(folder) != before


def test_the_entries_longest_unused_go_first(tmp_path):
    cache = Cache(tmp_path / "cache", limit_mib=3)
    for number in range(4):
        folder = tmp_path / f"made{number}"
        folder.mkdir()
        (folder / "a").write_bytes(bytes([number]) * 2**20)
        cache.put(f"k{number}", Probe((folder / "a",), ()), folder)
        os.utime(tmp_path / "cache" / f"k{number}", (number, number))
    cache._trim()
    assert cache.get("k0") is None
    assert cache.get("k3") is not None


def test_switched_off_it_neither_keeps_nor_finds(tmp_path, made):
    cache = Cache(tmp_path / "cache", enabled=False)
    record, folder = made
    assert cache.put("k", record, folder) == record
    assert not (tmp_path / "cache").exists()


def test_a_place_that_cannot_be_written_to_is_no_error(tmp_path, made):
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "cache")
    assert cache.put("k", *made) == made[0]
    assert cache.get("k") is None
