"""The Debian package, installed with dpkg into a root folder; its scripts install into a store."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edgekit.bundle.signing import make_key, read_private_key, sign
from edgekit_runtime import load
from edgekit_runtime.store.status import status

pytestmark = pytest.mark.needs_updaters
STORE = "var/lib/edgekit/quarters"


@pytest.fixture
def dpkg(tmp_path, call):
    """Run dpkg with a separate root folder; its scripts use the runtime of this Python."""
    root = tmp_path / "root"
    for folder in ("info", "updates", "triggers"):
        (root / "var/lib/dpkg" / folder).mkdir(parents=True)
    for file in ("status", "available"):
        (root / "var/lib/dpkg" / file).touch()
    how = ("--force-script-chrootless", "--force-not-root", "--force-depends", "--log=/dev/null")
    seen = {"EDGEKIT_PYTHON": sys.executable, "PYTHONPATH": os.pathsep.join(sys.path)}
    return root, lambda *rest: call("dpkg", f"--root={root}", *how, *rest, env={**os.environ, **seen})


def test_dpkg_installs_into_the_store(write, dpkg, bundle):
    root, run = dpkg
    done = run("-i", write("deb", "quarters.deb"))
    assert done.returncode == 0, done.stdout
    assert (root / "usr/share/edgekit/quarters.edgekit").read_bytes() == bundle.read_bytes()
    with load(root / STORE) as model:
        assert model.manifest.model_version == "1.2"
    assert run("--verify", "edgekit-model-quarters").stdout == ""


def test_removing_keeps_the_store_and_purging_removes_it(write, dpkg):
    root, run = dpkg
    package = write("deb", "quarters.deb")
    assert run("-i", package).returncode == run("-i", package).returncode == 0
    assert run("--remove", "edgekit-model-quarters").returncode == 0
    assert (root / STORE / "current").exists()
    assert run("--purge", "edgekit-model-quarters").returncode == 0
    assert not (root / STORE).exists()


def test_purging_keeps_a_folder_that_is_not_a_store(write, dpkg):
    root, run = dpkg
    mine = root / "srv/photographs/1.jpg"
    mine.parent.mkdir(parents=True)
    mine.touch()
    done = run("-i", write("deb", "quarters.deb", store="/srv/photographs"))
    assert done.returncode != 0
    assert "is not a store, and not empty" in done.stdout
    assert run("--purge", "edgekit-model-quarters").returncode == 0
    assert mine.exists()


def test_purging_removes_a_linked_store_and_keeps_other_files(write, dpkg):
    root, run = dpkg
    (root / "data").mkdir()
    (root / "data/notes").touch()
    (root / "data/generations").mkdir()  # else the store would refuse the folder
    (root / "link").symlink_to("data")
    done = run("-i", write("deb", "quarters.deb", store="/link"))
    assert done.returncode == 0, done.stdout
    assert (root / "data/current").exists()
    assert run("--purge", "edgekit-model-quarters").returncode == 0
    assert [path.name for path in (root / "data").iterdir()] == ["notes"]


def test_a_tampered_package_is_refused(write, dpkg):
    root, run = dpkg
    package = write("deb", "quarters.deb")
    content = bytearray(package.read_bytes())
    content[-100] ^= 1
    package.write_bytes(content)
    assert run("-i", package).returncode != 0
    assert not (root / STORE).exists()


@pytest.mark.needs_cryptography
def test_a_board_that_trusts_another_key_refuses_it(write, make_bundle, dpkg, tmp_path, monkeypatch):
    for name in ("ours", "theirs"):
        make_key(tmp_path / f"{name}.pem", "p256")
    bundle = make_bundle()
    sign(bundle, [read_private_key(tmp_path / "theirs.pem")])
    root, run = dpkg
    monkeypatch.setenv("EDGEKIT_TRUST", str(tmp_path / "ours.pub.pem"))
    done = run("-i", write("deb", "quarters.deb", of=bundle))
    assert done.returncode != 0
    assert "trust that key, or sign with a trusted one" in done.stdout
    assert not (root / STORE / "current").exists()
    monkeypatch.setenv("EDGEKIT_TRUST", str(tmp_path / "theirs.pub.pem"))
    assert run("--configure", "edgekit-model-quarters").returncode == 0
    assert (root / STORE / "current").exists()


def test_a_wrong_board_leaves_the_package_unconfigured(write, make_bundle, dpkg):
    from dataclasses import replace

    from edgekit_runtime import open_bundle
    from edgekit_runtime.format.manifest import Requirements

    with open_bundle(make_bundle()) as opened:
        variant = replace(opened.manifest.variants[0], requirements=Requirements(arch=("riscv64",)))
    root, run = dpkg
    done = run("-i", write("deb", "quarters.deb", of=make_bundle(variants=(variant,))))
    assert done.returncode != 0
    assert "is made for riscv64" in done.stdout
    assert "half-configured" in run("-s", "edgekit-model-quarters").stdout
    assert not (root / STORE / "current").exists()


def test_a_newer_version_is_installed_with_the_options_of_the_board(write, dpkg, make_bundle, monkeypatch):
    root, run = dpkg
    assert run("-i", write("deb", "old.deb")).returncode == 0
    assert status(str(root / STORE)).trial is not None
    monkeypatch.setenv("EDGEKIT_INSTALL", "--commit --keep 3")
    assert run("-i", write("deb", "new.deb", of=make_bundle(model_version="1.3"))).returncode == 0
    assert status(str(root / STORE)).trial is None
    with load(root / STORE) as model:
        assert model.manifest.model_version == "1.3"


def test_a_python_without_the_runtime_gets_advice(write, dpkg, tmp_path, call):
    root, _ = dpkg
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    how = ("--force-script-chrootless", "--force-not-root", "--force-depends", "--log=/dev/null")
    seen = {**os.environ, "EDGEKIT_PYTHON": str(bare)}
    done = call("dpkg", f"--root={root}", *how, "-i", write("deb", "quarters.deb"), env=seen)
    assert done.returncode != 0
    assert "pip install edgekit-runtime" in done.stdout


def test_systemd_accepts_the_unit(write, call, tmp_path):
    call("dpkg-deb", "-x", write("deb", "quarters.deb", systemd=True), tmp_path / "tree")
    unit = tmp_path / "tree/lib/systemd/system/edgekit-model-quarters.service"
    assert "edgekit_runtime boot /var/lib/edgekit/quarters" in unit.read_text()
    assert Path(unit).stat().st_mode & 0o777 == 0o644
