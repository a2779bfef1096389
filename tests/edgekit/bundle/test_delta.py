"""Deltas: they give exactly the new bundle, are small after small changes, and report if they are not."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle.delta import encode, make_delta
from edgekit.bundle.writer import write_bundle
from edgekit_runtime import open_bundle
from edgekit_runtime.__main__ import main
from edgekit_runtime.errors import (
    BundleError,
    DigestMismatch,
    MalformedBundle,
    PlanError,
    StoreError,
    UnsupportedVersion,
)
from edgekit_runtime.store.delta import format as layout
from edgekit_runtime.store.delta.apply import open_delta
from edgekit_runtime.store.delta.codec import Zlib, Zstd
from edgekit_runtime.store.delta.format import DeltaFile, Header, read_steps, steps_bytes
from edgekit_runtime.store.install import InstallOptions, install_from

RNG = np.random.default_rng(3)
BODY = RNG.normal(size=(300, 64)).astype(np.float32)
AT_ONCE = InstallOptions(commit=True)


@pytest.fixture
def write(linear):
    """Write a bundle of one matrix."""

    def to(path, weights, version, extra=None, **parts):
        manifest, files = linear(weights, model_name="m", model_version=version, **parts)
        write_bundle(manifest, files | (extra or {}), path)
        return path

    return to


@pytest.fixture
def old(write, tmp_path):
    return write(tmp_path / "old.edgekit", BODY, "1.0", {"notes/empty.txt": b"", "notes/kept.txt": b"short"})


@pytest.fixture
def head_only(write, tmp_path):
    """The last rows changed, and a new first row shifts all others."""
    weights = np.concatenate([BODY[:1] * 2, BODY])
    weights[-8:] += 0.01
    return write(tmp_path / "new.edgekit", weights, "1.1", {"notes/empty.txt": b"", "notes/kept.txt": b"short"})


@pytest.fixture
def store(old, tmp_path):
    install_from(old, None, str(tmp_path / "store"), AT_ONCE)
    return str(tmp_path / "store")


def assert_is(store, bundle):
    """Check that the current generation has the same files and bytes as the bundle."""
    with open_bundle(store) as have, open_bundle(bundle) as want:
        have.verify_all()
        assert have.unlisted() == want.unlisted()
        assert have.manifest == want.manifest


@pytest.mark.parametrize("codec", ["zlib", pytest.param("zstd", marks=pytest.mark.needs_zstandard)])
def test_a_delta_gives_the_new_bundle(codec, old, head_only, store, tmp_path):
    report = make_delta(old, head_only, tmp_path / "x.delta", codec=codec)
    assert report.delta_bytes == (tmp_path / "x.delta").stat().st_size
    assert report.share < 0.1
    assert report.pointless == ""
    installed, note = install_from(tmp_path / "x.delta", None, store, AT_ONCE)
    assert (installed.generation, note) == (report.new, "")
    assert_is(store, head_only)
    again, _ = install_from(tmp_path / "x.delta", None, store, AT_ONCE)
    assert not again.changed


def test_the_same_bundles_give_the_same_delta(old, head_only, tmp_path):
    for name in ("x", "y"):
        make_delta(old, head_only, tmp_path / name, codec="zlib")
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_a_delta_includes_the_signature(old, head_only, store, tmp_path):
    from edgekit_runtime.format.archive import Entry, directory, local_header

    # Signed afterwards by any tool: an archive with a model.sig, as bundles are laid out.
    with open_bundle(head_only) as bundle:
        files = {**bundle.unlisted(), **{record.path: bundle.read(record.path) for record in bundle.manifest.files}}
    files = {"manifest.json": files.pop("manifest.json"), **dict(sorted({**files, "model.sig": b"signed" * 9}.items()))}
    import zlib

    data, entries = b"", []
    for path, content in files.items():
        entry = Entry(path, len(content), zlib.crc32(content), len(data))
        data += local_header(entry) + content
        entries.append(entry)
    signed = tmp_path / "signed.edgekit"
    signed.write_bytes(data + directory(entries))
    make_delta(old, signed, tmp_path / "x.delta", codec="zlib")
    install_from(tmp_path / "x.delta", None, store, AT_ONCE)
    assert Path(store, "current", "model.sig").read_bytes() == b"signed" * 9
    assert_is(store, signed)


def test_a_renamed_variant_is_not_sent_again(write, old, store, tmp_path):
    new = write(tmp_path / "new.edgekit", BODY, "1.1", name="renamed")
    report = make_delta(old, new, tmp_path / "x.delta", codec="zlib")
    assert next(one for one in report.files if "renamed" in one.path).delta_bytes == 0
    install_from(tmp_path / "x.delta", None, store, AT_ONCE)
    assert_is(store, new)


def test_small_weight_changes_are_sent_as_differences(write, tmp_path):
    weights = RNG.integers(-128, 128, (256, 256)).astype(np.int8)
    moved = weights + RNG.choice([-1, 0, 0, 0, 0, 0, 0, 1], weights.shape).astype(np.int8)
    old = write(tmp_path / "a.edgekit", BODY, "1", {"w.bin": weights.tobytes()})
    new = write(tmp_path / "b.edgekit", BODY, "2", {"w.bin": moved.tobytes()})
    report = make_delta(old, new, tmp_path / "x.delta", codec="zlib")
    assert next(one for one in report.files if one.path == "w.bin").delta_bytes < 0.25 * weights.size


def test_a_pointless_delta_is_reported(write, old, tmp_path):
    new = write(tmp_path / "new.edgekit", RNG.normal(size=BODY.shape).astype(np.float32), "2")
    report = make_delta(old, new, tmp_path / "x.delta", codec="zlib")
    assert "send the bundle itself" in report.pointless
    assert "all its float32 weights changed" in report.pointless


def test_the_same_bundle_twice_is_refused(old, tmp_path):
    with pytest.raises(PlanError, match="the same bundle"):
        make_delta(old, old, tmp_path / "x.delta", codec="zlib")
    with pytest.raises(PlanError, match="is one of the two bundles"):
        make_delta(old, tmp_path / "other", old, codec="zlib")


@pytest.mark.needs_rich
def test_the_command_prints_the_sizes(old, head_only, tmp_path):
    from click.testing import CliRunner

    from edgekit.cli import cli

    arguments = ["delta", str(old), str(head_only), "-o", str(tmp_path / "x.delta"), "--codec", "zlib"]
    told = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    assert told["share"] < 0.1
    result = CliRunner().invoke(cli, arguments)
    assert f"x.delta  {told['delta_bytes']:,} bytes" in result.stdout
    assert "variants/v/weights.npy" in result.stdout


# What does not fit. ----------------------------------------------------------------------------------


def test_a_store_without_the_old_bundle_installs_the_full_one(write, old, head_only, tmp_path, capsys):
    make_delta(old, head_only, tmp_path / "x.delta", codec="zlib")
    other, store = write(tmp_path / "other.edgekit", BODY * 3, "1.0"), str(tmp_path / "another")
    install_from(other, None, store, AT_ONCE)
    with pytest.raises(StoreError, match="does not have: install the whole bundle"):
        install_from(tmp_path / "x.delta", None, store, AT_ONCE)
    assert main(["install", str(tmp_path / "x.delta"), store, "--full", str(head_only)]) == 0
    assert "note: the delta was not used" in capsys.readouterr().out
    assert_is(store, head_only)


def test_a_damaged_old_file_is_detected(old, head_only, store, tmp_path):
    make_delta(old, head_only, tmp_path / "x.delta", codec="zlib")
    weights = Path(store, "current", "variants/v/weights.npy")
    data = bytearray(weights.read_bytes())
    data[1000] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DigestMismatch, match="install the whole bundle"):
        install_from(tmp_path / "x.delta", None, store, AT_ONCE)
    _, note = install_from(tmp_path / "x.delta", head_only, store, AT_ONCE)
    assert "damaged" in note
    assert_is(store, head_only)


def test_a_board_without_zstandard_gets_advice(old, head_only, store, tmp_path, monkeypatch):
    make_delta(old, head_only, tmp_path / "x.delta", codec="zlib")
    data = (tmp_path / "x.delta").read_bytes().replace(b'"codec":"zlib"', b'"codec":"zstd"')
    (tmp_path / "x.delta").write_bytes(data)
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(StoreError, match="zstandard is not installed"):
        install_from(tmp_path / "x.delta", None, store, AT_ONCE)


def test_every_cut_and_every_flipped_byte_is_refused(old, head_only, store, tmp_path):
    make_delta(old, head_only, tmp_path / "x.delta", codec="zlib")
    data = (tmp_path / "x.delta").read_bytes()
    hostile = tmp_path / "hostile.delta"
    before = sorted(Path(store).rglob("*"))
    with open_bundle(head_only) as bundle:
        wanted = bundle.manifest
    places = sorted({*range(0, len(data), 37), *range(40), len(data) - 1})
    for place in places:
        for changed in (data[:place], data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :]):
            hostile.write_bytes(changed)
            try:
                with open_delta(hostile, store) as delta:
                    for record in delta.manifest.files:
                        delta.copy(record.path, lambda _: None)
                    assert delta.manifest == wanted
            except (BundleError, StoreError):
                continue
    assert sorted(Path(store).rglob("*")) == before


def hostile_delta(path, header, steps=b"", contents=b""):
    import zlib

    packer = zlib.compressobj(9, wbits=-15)
    packed = packer.compress(steps) + packer.flush()
    told = json.dumps({**header, "steps_bytes": len(packed)}).encode()
    path.write_bytes(layout.MAGIC + struct.pack("<I", len(told)) + told + packed + contents)
    return path


def piece(**changes):
    return {"path": "manifest.json", "size_bytes": 10, "base": "manifest.json", "steps": 1, **changes}


def test_a_delta_of_a_newer_format_installs_the_full_bundle(head_only, store, tmp_path):
    delta = hostile_delta(tmp_path / "x.delta", {"format_version": 2})
    assert main(["install", str(delta), store]) == 6
    _, note = install_from(delta, head_only, store, AT_ONCE)
    assert "format_version is 2" in note
    assert_is(store, head_only)


def test_a_damaged_current_generation_is_repaired_by_the_full_bundle(old, head_only, store, tmp_path):
    make_delta(old, head_only, tmp_path / "x.delta", codec="zlib")
    install_from(tmp_path / "x.delta", None, store, AT_ONCE)
    weights = Path(store, "current", "variants/v/weights.npy")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(DigestMismatch):
        install_from(tmp_path / "x.delta", None, store, AT_ONCE)
    done, note = install_from(tmp_path / "x.delta", head_only, store, AT_ONCE)
    assert (done.changed, "the delta was not used" in note) == (True, True)
    assert_is(store, head_only)


@pytest.mark.parametrize(
    ("header", "step", "error"),
    [
        ({"format_version": 2}, None, UnsupportedVersion),
        ({"codec": "exec"}, None, MalformedBundle),
        ({"old": "../../../../etc/pa"}, None, MalformedBundle),
        ({"surprise": 1}, None, MalformedBundle),
        ({"pieces": [piece(path="../x")]}, None, MalformedBundle),
        ({"pieces": [piece(base="/etc/passwd")]}, None, MalformedBundle),
        ({"pieces": [piece(), piece()]}, None, MalformedBundle),
        ({"pieces": [piece(path="labels.txt")]}, None, MalformedBundle),
        ({"pieces": [piece(size_bytes=1 << 40)]}, None, MalformedBundle),
        ({"pieces": [piece(size_bytes=1 << 30)]}, None, MalformedBundle),
        ({"pieces": [piece(steps=1 << 30)]}, None, MalformedBundle),
        ({}, (layout.COPY, 1 << 60, 10, 0), MalformedBundle),
        ({}, (layout.COPY, 0, 11, 0), MalformedBundle),
        ({}, (layout.COPY, 0, 10, 5), MalformedBundle),
        ({}, (layout.ADD, 1 << 60, 10, 0), MalformedBundle),
        ({}, (layout.FILL, 0, 10, 0), MalformedBundle),
        ({}, (9, 0, 10, 0), MalformedBundle),
        ({}, (layout.COPY, 0, 10, 0), DigestMismatch),
    ],
)
def test_a_delta_that_breaks_the_format_is_refused(header, step, error, store, tmp_path):
    with open_bundle(store) as bundle:
        old = bundle.lock.generation
    whole = {"format_version": 1, "codec": "zlib", "old": old, "new": "0" * 16, "pieces": [piece()], **header}
    steps = layout.STEP.pack(*(step or (layout.COPY, 0, 10, 0)))
    with pytest.raises(error):
        open_delta(hostile_delta(tmp_path / "x.delta", whole, steps), store)


@pytest.mark.parametrize("codec", ["zlib", pytest.param("zstd", marks=pytest.mark.needs_zstandard)])
def test_a_decompression_bomb_is_refused(codec):
    from edgekit_runtime.store.delta.codec import CODECS

    packer = CODECS[codec]()
    bomb = packer.compress(bytes(64 << 20))
    with pytest.raises(MalformedBundle, match="declared size"):
        packer.decompress(bomb, 1000)


# How files are encoded. -----------------------------------------------------------------------------


def applied(steps, contents, old, codec):
    """Return the file that a board builds from these steps."""
    header = Header("zlib", "", "", 0, (DeltaFile("new.bin", sum(step.size_bytes for step in steps), "", len(steps)),))
    built = b""
    for step, content in zip(read_steps(steps_bytes(steps), header, "x")["new.bin"], contents, strict=True):
        similar = old[step.old_offset : step.old_offset + step.size_bytes]
        if step.kind == layout.COPY:
            built += similar
        elif step.kind == layout.FILL:
            built += codec.decompress(content, step.size_bytes, similar)
        else:
            difference = codec.decompress(content, step.size_bytes)
            built += bytes((a + b) % 256 for a, b in zip(similar, difference, strict=True))
    return built


@pytest.mark.parametrize("seed", range(40))
def test_the_steps_give_the_new_file(seed, monkeypatch):
    monkeypatch.setattr(Zlib, "block_bytes", 256)
    rng = np.random.default_rng(seed)
    parts = [(int(rng.integers(4)), int(rng.integers(1, 300))) for _ in range(rng.integers(12))]
    known = [rng.integers(0, 256, 400).astype(np.uint8).tobytes() for _ in range(3)] + [bytes(400)]
    old = b"".join(known) if seed % 5 else b""
    new = b"".join((known[which] if count % 3 else rng.bytes(400))[:count] for which, count in parts)
    assert applied(*encode(new, old, Zlib()), old, Zlib()) == new


@pytest.mark.parametrize("codec", [Zlib, pytest.param(Zstd, marks=pytest.mark.needs_zstandard)])
@pytest.mark.parametrize("place", [0, 1000, 299_000])
def test_bytes_inserted_anywhere_cost_little_more_than_themselves(place, codec):
    old = RNG.bytes(300_000)
    new = old[:place] + RNG.bytes(500) + old[place:]
    _, contents = encode(new, old, codec())
    assert sum(map(len, contents)) <= 2000


@pytest.mark.parametrize("codec", [Zlib, pytest.param(Zstd, marks=pytest.mark.needs_zstandard)])
def test_content_that_moved_within_a_file_is_found(codec):
    old = RNG.bytes(200_000)
    new = old[150_000:] + RNG.bytes(1000) + old[:150_000]
    _, contents = encode(new, old, codec())
    assert sum(map(len, contents)) <= 20_000


def test_a_large_file_has_at_most_the_allowed_number_of_steps(monkeypatch):
    monkeypatch.setattr("edgekit.bundle.delta.MAX_STEPS", 64)
    monkeypatch.setattr(Zlib, "block_bytes", 1)
    new = RNG.bytes(10_000)
    steps, _ = encode(new, new[::-1], Zlib())
    assert len(steps) <= 64 // 2 + 1
