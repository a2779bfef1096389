"""The Mender artifact, validated with mender-artifact and installed by a real client with the update module."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from edgekit_runtime import load
from edgekit_runtime.errors import PlanError
from edgekit_runtime.store import trial

pytestmark = pytest.mark.needs_updaters
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
MODULES = "/usr/share/mender/modules/v3"


@pytest.fixture
def make(write, signer, tmp_path):
    """Write a signed artifact for the device type cam and the store tmp_path/store."""

    def artifact(out="quarters.mender", **options):
        usual = {"compatible": ("cam",), "key": signer.key, "store": str(tmp_path / "store")}
        return write("mender", out, **{**usual, **options})

    return artifact


@pytest.fixture
def mender(make, call, signer, tmp_path):
    """Run the client of a board with the board files, in a mount namespace."""
    folder = tmp_path / "mender"
    (folder / "data").mkdir(parents=True)
    (folder / "etc").mkdir()
    (folder / "etc/artifact_info").write_text("artifact_name=factory\n")
    (folder / "etc/device_type").write_text("device_type=cam\n")
    config = {"ArtifactVerifyKey": str(signer.public), "DeviceTypeFile": f"{folder}/etc/device_type"}
    (folder / "etc/mender.conf").write_text(json.dumps(config))
    make("for-the-files.mender", board=tmp_path / "overlay")
    mounts = f"mount --bind {tmp_path}/overlay{MODULES} {MODULES} && mount --bind {folder}/etc /etc/mender"
    seen = {**os.environ, "EDGEKIT_PYTHON": sys.executable, "PYTHONPATH": os.pathsep.join(sys.path)}

    def run(*arguments):
        script = f'{mounts} && exec mender --no-syslog --data {folder}/data "$@"'
        return call("unshare", "--mount", "sh", "-c", script, "sh", *arguments, env=seen)

    return run


def test_the_artifact_has_its_device_types_and_provides(make, call, signer):
    artifact = make(compatible=("cam", "gate"))
    assert call("mender-artifact", "validate", "--key", signer.public, artifact).returncode == 0
    told = call("mender-artifact", "read", "--key", signer.public, artifact).stdout
    for words in (
        "signed and verified correctly",
        "Compatible devices: '[cam gate]'",
        "Type:   edgekit",
        "edgekit.quarters.version: 1.2",
        'Clears Provides: ["edgekit.quarters.*"]',
        "quarters.edgekit",
    ):
        assert words in told


@AS_ROOT
def test_the_client_installs_into_the_store_and_commits(make, mender, tmp_path):
    done = mender("install", make())
    assert done.returncode == 0, done.stdout
    with load(tmp_path / "store") as model:
        assert model.manifest.model_version == "1.2"
    assert mender("commit").returncode == 0
    assert "edgekit.quarters.version=1.2" in mender("show-provides").stdout


@AS_ROOT
def test_the_client_rolls_back_to_the_previous_generation(make, mender, make_bundle, tmp_path):
    assert mender("install", make("old.mender")).returncode == 0
    assert mender("commit").returncode == 0
    before = os.readlink(tmp_path / "store/current")
    assert mender("install", make("new.mender", of=make_bundle(model_version="1.3"), version="1.3")).returncode == 0
    assert os.readlink(tmp_path / "store/current") != before
    assert mender("rollback").returncode == 0
    assert os.readlink(tmp_path / "store/current") == before


@AS_ROOT
def test_a_generation_that_was_given_up_is_not_committed(make, mender, make_bundle, tmp_path):
    assert mender("install", make("old.mender")).returncode == 0
    assert mender("commit").returncode == 0
    before = os.readlink(tmp_path / "store/current")
    assert mender("install", make("new.mender", of=make_bundle(model_version="1.3"), version="1.3")).returncode == 0
    trial.rollback(str(tmp_path / "store"))  # as when its check fails at a start before Mender's commit
    done = mender("commit")
    assert done.returncode != 0
    assert "is no longer current" in done.stdout
    assert os.readlink(tmp_path / "store/current") == before
    assert "edgekit.quarters.version=1.2" in mender("show-provides").stdout


@AS_ROOT
def test_wrong_device_types_keys_and_missing_signatures_are_refused(make, mender, stranger, tmp_path):
    for name, options, said in (
        ("type", {"compatible": ("gate",)}, "not compatible with device"),
        ("stranger", {"key": stranger.key}, "invalid signature"),
        ("unsigned", {"key": None}, "no signature"),
    ):
        done = mender("install", make(f"{name}.mender", **options))
        assert done.returncode != 0, name
        assert said in done.stdout, done.stdout
    assert not (tmp_path / "store").exists()


@AS_ROOT
def test_a_tampered_artifact_does_not_change_the_store(make, mender, flip, tmp_path):
    assert mender("install", make("good.mender")).returncode == 0
    assert mender("commit").returncode == 0
    before = os.readlink(tmp_path / "store/current")
    artifact = make("bad.mender")
    flip(artifact, b"NUMPY")
    assert mender("install", artifact).returncode != 0
    assert os.readlink(tmp_path / "store/current") == before


def test_an_unreadable_key_gets_advice_how_to_convert_it(make, signer):
    modern = Path(signer.key).with_name("pkcs8.pem")
    with pytest.raises(PlanError, match=f"openssl pkey -traditional -in {modern}"):
        make(key=modern)


@AS_ROOT
def test_the_first_artifact_cannot_be_rolled_back(make, mender, tmp_path):
    assert mender("install", make()).returncode == 0
    done = mender("rollback")
    assert done.returncode != 0
    assert "exit status 8" in done.stdout  # as the store says it: a model that is there is better than none
    assert (tmp_path / "store/current").exists()
