"""Preflight gives the same results for described boards as the runtime on them; all forms of inventories are read."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle.writer import write_bundle
from edgekit.fleet.inventory import read_inventory
from edgekit.fleet.preflight import preflight, read_bundle_summary
from edgekit_runtime import load, open_bundle
from edgekit_runtime.commands.doctor import diagnose
from edgekit_runtime.engines import delegates
from edgekit_runtime.errors import DataError, EngineUnavailable, IncompatibleDevice
from edgekit_runtime.format.manifest import Requirements

BOARDS = ("coral-dev-board", "imx8m-plus", "jetson-orin-nano", "raspberry-pi-3", "raspberry-pi-4", "raspberry-pi-5")
VARIANTS = (
    {"name": "for-intel", "requirements": Requirements(arch=("x86_64", "i686"))},
    {"name": "for-newer", "engine": "litert", "requirements": Requirements(engine_version="99.0")},
    {"name": "for-gpu", "engine": "openvino", "device": "gpu"},
    {"name": "for-coral", "engine": "litert", "device": "npu", "delegate": "edgetpu"},
    {"name": "for-later", "engine": "quantum"},
    {"name": "for-large", "requirements": Requirements(memory_bytes=3 << 30)},
    {},
)


@pytest.fixture
def bundle(linear, tmp_path: Path):
    """Write a bundle with variants that differ in these fields from the variant "null" of the null engine."""

    def write(*variants: dict[str, object], **parts: object) -> Path:
        manifest, files = linear(np.eye(4, dtype=np.float32), name="null", model_name="identity", **parts)
        changed = tuple(replace(manifest.variants[0], **fields) for fields in variants or ({},))
        write_bundle(replace(manifest, variants=changed), files, tmp_path / "identity.edgekit")
        return tmp_path / "identity.edgekit"

    return write


@pytest.fixture
def run_as_board(make_board, monkeypatch):
    """Make this process report the properties of a board."""

    def pretend(name: str, arch: str = "aarch64") -> Path:
        root = make_board(name)
        found, sysconf = delegates.find_signs, os.sysconf
        memory = diagnose(str(root)).board.memory_bytes
        monkeypatch.setattr(platform, "machine", lambda: arch)
        monkeypatch.setattr(delegates, "find_signs", lambda signs, at=str(root): found(signs, at))
        pages = {"SC_PHYS_PAGES": memory >> 12, "SC_PAGE_SIZE": 1 << 12}
        monkeypatch.setattr(os, "sysconf", lambda key: pages.get(key) or sysconf(key))
        return root

    return pretend


def write_inventory(path: Path, boards: list[object]) -> Path:
    path.write_text(json.dumps(boards), encoding="utf-8")
    return path


def results(bundle: Path, inventory: Path, **options: object):
    return preflight(read_bundle_summary(bundle), read_inventory(inventory), **options)


@pytest.mark.parametrize(("name", "arch"), [*((name, "aarch64") for name in BOARDS), ("imx8m-plus", "x86_64")])
def test_preflight_agrees_with_the_runtime_on_the_board(bundle, run_as_board, tmp_path, name, arch):
    path = bundle(*VARIANTS[arch == "x86_64" :])
    inventory = write_inventory(tmp_path / "fleet.json", [asdict(diagnose(str(run_as_board(name, arch))))])
    with load(path) as model:
        taken, refused = model.placement.variant, {each.variant: each.reason for each in model.placement.refused}
    (verdict,) = results(path, inventory)
    large = name not in ("coral-dev-board", "raspberry-pi-3")
    assert (taken, verdict.runs) == (("for-large", ("for-large", "null")) if large else ("null", ("null",)))
    assert {each.variant: each.reason for each in verdict.refused} == refused
    assert len(refused) == len(VARIANTS) - 1 - large - (arch == "x86_64")


@pytest.mark.parametrize("name", ["raspberry-pi-3", "jetson-orin-nano"])
def test_preflight_and_runtime_refuse_for_the_same_reasons(bundle, run_as_board, tmp_path, name):
    path = bundle(*VARIANTS[:-2])
    inventory = write_inventory(tmp_path / "fleet.json", [asdict(diagnose(str(run_as_board(name))))])
    with pytest.raises(EngineUnavailable) as caught:
        load(path)
    (verdict,) = results(path, inventory)
    assert verdict.runs == ()
    assert all(f"{each.variant}: {each.reason}" in str(caught.value) for each in verdict.refused)


def test_preflight_refuses_bundles_for_other_boards_like_the_store(bundle, run_as_board, tmp_path):
    from edgekit_runtime.store.install_checks import check_board

    path = bundle(devices=({"name": "intel-cpu", "arch": "x86_64", "variants": ["null"]},))
    inventory = write_inventory(tmp_path / "fleet.json", [asdict(diagnose(str(run_as_board("raspberry-pi-5"))))])
    with open_bundle(path) as opened, pytest.raises(IncompatibleDevice) as caught:
        check_board(opened.manifest)
    (verdict,) = results(path, inventory)
    assert (verdict.runs, verdict.reason) == ((), str(caught.value))


def test_variants_are_in_the_order_of_the_device_profile(bundle, run_as_board, tmp_path):
    devices = tuple(
        {"name": arch, "arch": arch, "variants": [first]} for arch, first in (("aarch64", "other"), ("armv7l", "null"))
    )
    path = bundle({}, {"name": "other"}, devices=devices)
    records = [asdict(diagnose(str(run_as_board("raspberry-pi-4", arch)))) for arch in ("aarch64", "armv7l")]
    assert [each.runs[0] for each in results(path, write_inventory(tmp_path / "fleet.json", records))] == [
        "other",
        "null",
    ]


def test_an_older_runtime_and_a_full_disk_are_reported(bundle, tmp_path):
    record = {**asdict(diagnose()), "format_version": 0, "runtime": "0.0.9", "disk_free_bytes": 10}
    (verdict,) = results(bundle(), write_inventory(tmp_path / "fleet.json", [record]))
    assert "edgekit-runtime 0.0.9 reads up to 0: update it first" in verdict.reason
    assert "0 KiB of disk are free" in verdict.warnings[0]


@pytest.mark.needs_cryptography
def test_a_board_that_requires_a_signature_refuses_other_keys(bundle, tmp_path, monkeypatch):
    def keygen(name: str) -> Path:
        edgekit("keygen", tmp_path / name)
        return tmp_path / name

    def edgekit(*arguments: object) -> None:
        subprocess.run([sys.executable, "-m", "edgekit", *map(str, arguments)], check=True, capture_output=True)

    ours, theirs, path = keygen("ours.pem"), keygen("theirs.pem"), bundle()
    trusting = {}
    for name, trust in (
        ("careless", ""),
        ("ours", "ours.pub.pem"),
        ("theirs", "theirs.pub.pem"),
        ("broken", "none.pem"),
    ):
        monkeypatch.setenv("EDGEKIT_TRUST", trust and str(tmp_path / trust))
        trusting[name] = {**asdict(diagnose()), "name": name}
    monkeypatch.delenv("EDGEKIT_TRUST")
    inventory = write_inventory(tmp_path / "fleet.json", list(trusting.values()))
    assert [each.board for each in results(path, inventory) if each.runs] == ["careless"]
    edgekit("sign", path, "--key", ours)
    assert [each.board for each in results(path, inventory) if each.runs] == ["careless", "ours"]
    edgekit("sign", path, "--key", theirs, "--add")
    assert [each.board for each in results(path, inventory) if each.runs] == ["careless", "ours", "theirs"]
    assert "trusted are no key that could be read" in results(path, inventory)[-1].reason


def test_require_considers_only_matching_variants(bundle, tmp_path):
    inventory = write_inventory(tmp_path / "fleet.json", [asdict(diagnose())])
    (verdict,) = results(bundle(*VARIANTS), inventory, require="for-later")
    assert (verdict.runs, [each.variant for each in verdict.refused]) == ((), ["for-later"])
    with pytest.raises(EngineUnavailable, match="no variant of 'identity' matches require='tpu'"):
        results(bundle(*VARIANTS), inventory, require="tpu")


def test_inventories_of_all_forms_are_read(tmp_path):
    one = asdict(diagnose())
    named = {**one, "name": "cam-1"}
    forms = {
        "one.json": json.dumps(one, indent=2),
        "list.json": json.dumps([named, one]),
        "lines.jsonl": f"{json.dumps(named)}\n{json.dumps(one)}\n",
        "behind.json": f"{json.dumps(named, indent=2)}\n{json.dumps(one, indent=2)}",
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
    host = platform.node()
    assert [each.name for each in read_inventory(tmp_path / "one.json")] == [host]
    for name in ("list.json", "lines.jsonl", "behind.json"):
        assert [each.name for each in read_inventory(tmp_path / name)] == ["cam-1", host]
    names = [each.name for each in read_inventory(tmp_path)]
    assert names == ["cam-1", "behind", "cam-1#2", "lines", "cam-1#3", "list", "one"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no board"),
        ("[]", "has no board"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('[{"board": {}}]', "board 1: is not a doctor report of this version"),
        ("[3]", "board 1: is not a doctor report of this version"),
    ],
)
def test_an_invalid_inventory_is_reported(tmp_path, text, said):
    (tmp_path / "fleet.json").write_text(text)
    with pytest.raises(DataError, match=said):
        read_inventory(tmp_path / "fleet.json")


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("board", "memory_bytes"), "4 GiB"),
        (("disk_free_bytes",), "much"),
        (("board", "arch"), 64),
        (("engines", 0, "library"), 2.1),
        (("shown",), [["litert:npu", 1]]),
        (("trusted",), [7]),
    ],
)
def test_a_report_with_wrong_types_is_refused(tmp_path, where, value):
    diagnosis = asdict(diagnose())
    place = diagnosis
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] = value
    (tmp_path / "fleet.json").write_text(json.dumps(diagnosis))
    with pytest.raises(DataError, match="board 1: is not a doctor report of this version"):
        read_inventory(tmp_path / "fleet.json")


def test_board_names_are_unique_and_printable(tmp_path):
    names = ("cam", "cam#2", "cam", "cam", "\x1b[2Jgate\n 1")
    (tmp_path / "fleet.json").write_text(json.dumps([{**asdict(diagnose()), "name": name} for name in names]))
    assert [each.name for each in read_inventory(tmp_path / "fleet.json")] == [
        *("cam", "cam#2", "cam#3", "cam#4"),
        "[2Jgate 1",
    ]


def test_a_missing_inventory_is_reported(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_inventory(tmp_path / "fleet.json")


def test_the_command_exits_with_6_and_lists_boards_that_cannot_run_it(bundle, tmp_path):
    good, bad = asdict(diagnose()), asdict(diagnose())
    bad["board"] = {**bad["board"], "arch": "riscv64"}
    here = platform.machine()
    path = bundle(devices=({"name": "here", "arch": here, "variants": ["null"]},))
    records = [*({**good, "name": f"cam-{n}"} for n in range(7)), {**bad, "name": "odd-1"}]
    inventory = write_inventory(tmp_path / "fleet.json", records)
    command = [sys.executable, "-m", "edgekit", "preflight", str(path), "--fleet", str(inventory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert "error: 1 of 8 boards can run no variant of 'identity': odd-1" in done.stderr
    assert done.stdout.splitlines()[0] == "7 x null: cam-0, cam-1, cam-2, cam-3, cam-4 and 2 more"
    told = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=False).stdout)
    assert [board["runs"] for board in told["boards"]] == [["null"]] * 7 + [[]]
    write_inventory(inventory, records[:7])
    assert subprocess.run(command, capture_output=True, text=True, check=False).returncode == 0
