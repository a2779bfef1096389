"""Hostile updates, bundles or deltas, one per function, for a board with a valid generation in its store.

Each is refused with a BundleError, in less than a second and 50 MB, and the store stays as it was.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgekit_runtime.errors import BundleError, DigestMismatch, IncompatibleDevice, MalformedBundle, NotAnUpdate
from edgekit_runtime.store.delta import format as layout
from edgekit_runtime.store.generations import current
from edgekit_runtime.store.install import InstallOptions, install_from

MOST_S, MOST_BYTES = 1.0, 50_000_000


@dataclass
class Craft:
    """The parts of hostile updates."""

    tiny: Any
    lay_out: Callable[..., bytes]
    old: str  # the generation that the board has

    def bundle(self) -> bytes:
        """Return the modified small bundle with all files listed."""
        self.tiny.list_files()
        return self.lay_out(self.tiny.entries())

    def delta(self, *steps: tuple[int, int, int, int], contents: bytes = b"", **header: Any) -> bytes:
        """Return a delta that builds a manifest with these steps, or with other header fields."""
        size = sum(step[2] for step in steps)
        piece = {"path": "manifest.json", "size_bytes": size, "base": "manifest.json", "steps": len(steps)}
        told = {"format_version": 1, "codec": "zlib", "old": self.old, "new": "0" * 16, "pieces": [piece], **header}
        packed = deflated(b"".join(layout.STEP.pack(*step) for step in steps))
        return start_of(json.dumps({"steps_bytes": len(packed), **told}).encode()) + packed + contents


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    return packer.compress(data) + packer.flush()


def start_of(header: bytes, size: int | None = None) -> bytes:
    return layout.MAGIC + struct.pack("<I", len(header) if size is None else size) + header


def downgrade(craft: Craft) -> bytes:
    craft.tiny.document["model"]["version"] = "1.9"
    return craft.bundle()


def version_that_nobody_can_compare(craft: Craft) -> bytes:
    craft.tiny.document["model"]["version"] = "newest"
    return craft.bundle()


def number_without_end_for_a_version(craft: Craft) -> bytes:
    craft.tiny.document["model"]["version"] = "1" + ".0" * 100 + "-" + "9" * 50
    return craft.bundle()


def another_model(craft: Craft) -> bytes:
    craft.tiny.document["model"] = {"name": "another", "version": "3"}
    return craft.bundle()


def wrong_board(craft: Craft) -> bytes:
    craft.tiny.document["devices"] = [{"name": "toaster", "arch": "none-there-is", "variants": []}]
    return craft.bundle()


def damaged_artifact(craft: Craft) -> bytes:
    craft.tiny.document["model"]["version"] = "2.1"
    data = craft.bundle()
    place = data.index(b"\x93NUMPY", data.index(b"variants/v/eye.npy")) + 130
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def delta_without_end(craft: Craft) -> bytes:
    return start_of(b"{}", 0xFFFFFFFF)


def delta_of_deep_json(craft: Craft) -> bytes:
    return start_of(b'{"a":' * 170_000 + b"1" + b"}" * 170_000)


def delta_whose_steps_are_a_bomb(craft: Craft) -> bytes:
    bomb = deflated(bytes(64 << 20))
    return craft.delta((layout.COPY, 0, 10, 0), steps_bytes=len(bomb))[:-20] + bomb


def delta_whose_content_is_a_bomb(craft: Craft) -> bytes:
    bomb = deflated(bytes(64 << 20))
    return craft.delta((layout.FILL, 0, 1000, len(bomb)), contents=bomb)


def delta_of_more_steps_than_there_may_be(craft: Craft) -> bytes:
    pieces = [{"path": "manifest.json", "size_bytes": 0, "base": None, "steps": layout.MAX_STEPS + 1}]
    return craft.delta(pieces=pieces)


def delta_of_as_many_steps_as_there_may_be(craft: Craft) -> bytes:
    return craft.delta(*[(layout.COPY, 0, 1, 0)] * layout.MAX_STEPS)


def delta_to_an_endless_manifest(craft: Craft) -> bytes:
    return craft.delta((layout.COPY, 0, 0xFFFFFFFF, 0))


def delta_that_reads_beyond_the_old_file(craft: Craft) -> bytes:
    return craft.delta((layout.COPY, (1 << 64) - 1, 100, 0))


def delta_from_a_file_of_the_board(craft: Craft) -> bytes:
    piece = {"path": "manifest.json", "size_bytes": 10, "base": "../../../../etc/passwd", "steps": 1}
    return craft.delta((layout.COPY, 0, 10, 0), pieces=[piece])


def delta_from_a_generation_elsewhere(craft: Craft) -> bytes:
    return craft.delta((layout.COPY, 0, 10, 0), old="../../../etc/ssl")


def delta_to_a_file_of_the_board(craft: Craft) -> bytes:
    manifest = {"path": "manifest.json", "size_bytes": 10, "base": "manifest.json", "steps": 1}
    escape = {"path": "../../current", "size_bytes": 0, "base": None, "steps": 0}
    return craft.delta((layout.COPY, 0, 10, 0), pieces=[manifest, escape])


def delta_to_another_manifest_than_it_says(craft: Craft) -> bytes:
    return craft.delta((layout.COPY, 0, 100, 0))


def delta_with_something_behind_it(craft: Craft) -> bytes:
    return craft.delta((layout.COPY, 0, 100, 0), contents=b"more")


def delta_of_a_newer_kind_of_step(craft: Craft) -> bytes:
    return craft.delta((7, 0, 100, 0))


UPDATES: dict[Callable[[Craft], bytes], type[BundleError]] = {
    **dict.fromkeys(
        (downgrade, version_that_nobody_can_compare, number_without_end_for_a_version, another_model), NotAnUpdate
    ),
    wrong_board: IncompatibleDevice,
    damaged_artifact: DigestMismatch,
    **dict.fromkeys(
        (
            *(delta_without_end, delta_of_deep_json, delta_whose_steps_are_a_bomb, delta_whose_content_is_a_bomb),
            *(delta_of_more_steps_than_there_may_be, delta_to_an_endless_manifest, delta_with_something_behind_it),
            *(delta_that_reads_beyond_the_old_file, delta_from_a_file_of_the_board, delta_from_a_generation_elsewhere),
            *(delta_to_a_file_of_the_board, delta_of_a_newer_kind_of_step),
        ),
        MalformedBundle,
    ),
    delta_of_as_many_steps_as_there_may_be: DigestMismatch,
    delta_to_another_manifest_than_it_says: DigestMismatch,
}

CHILD = """
import json, os, sys, time
import numpy
from edgekit_runtime.errors import BundleError
from edgekit_runtime.store.install import InstallOptions
from edgekit_runtime.store.install import install_from
def memory_bytes(field):
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields[field].split()[0]) * 1024
folder, store = sys.argv[1:]
before, told = memory_bytes("VmRSS"), {}
for name in sorted(os.listdir(folder)):
    started = time.process_time()
    try:
        install_from(os.path.join(folder, name), None, store, InstallOptions())
        kind = "installed"
    except BundleError as error:
        kind = type(error).__name__
    told[name] = kind, time.process_time() - started
print(json.dumps([told, memory_bytes("VmHWM") - before]))
"""


@pytest.fixture
def store(tiny: Any, lay_out: Callable[..., bytes], tmp_path: Path) -> str:
    """A store with version 2.0 of the small bundle."""
    tiny.document["model"]["version"] = "2.0"
    tiny.list_files()
    (tmp_path / "honest").write_bytes(lay_out(tiny.entries()))
    install_from(tmp_path / "honest", None, str(tmp_path / "store"), InstallOptions(commit=True))
    return str(tmp_path / "store")


def names(store: str) -> set[str]:
    return {str(path) for path in Path(store).rglob("*")}


def test_refusing_costs_little_and_does_not_change_the_store(
    tiny: Any, lay_out: Callable[..., bytes], store: str, tmp_path: Path
) -> None:
    hostile, before = tmp_path / "hostile", names(store)
    hostile.mkdir()
    original = json.dumps(tiny.document), dict(tiny.files)
    for attack in UPDATES:
        tiny.document, tiny.files = json.loads(original[0]), dict(original[1])
        (hostile / attack.__name__).write_bytes(attack(Craft(tiny, lay_out, current(store) or "")))
    child = subprocess.run([sys.executable, "-c", CHILD, hostile, store], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    told, most_bytes = json.loads(child.stdout)
    assert {name: kind for name, (kind, _) in told.items()} == {a.__name__: k.__name__ for a, k in UPDATES.items()}
    assert {name: took_s for name, (_, took_s) in told.items() if took_s >= MOST_S} == {}
    assert most_bytes < MOST_BYTES
    assert names(store) == before


def test_a_valid_update_is_installed(tiny: Any, lay_out: Callable[..., bytes], store: str, tmp_path: Path) -> None:
    tiny.document["model"]["version"] = "2.1"
    (tmp_path / "update").write_bytes(lay_out(tiny.entries()))
    assert install_from(tmp_path / "update", None, store, InstallOptions())[0].changed
