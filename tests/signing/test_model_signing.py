"""The `model_signing` command of OpenSSF accepts our signatures and refuses changes, and we accept its signatures."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle.signing import make_key, read_private_key, sign
from edgekit.bundle.writer import write_bundle
from edgekit_runtime import open_bundle
from edgekit_runtime.errors import SignatureInvalid

pytestmark = [pytest.mark.needs_model_signing, pytest.mark.needs_cryptography]


@pytest.fixture
def bundle(linear: Callable[..., Any], tmp_path: Path) -> Path:
    """The identity of two numbers, as a file."""
    write_bundle(*linear(np.eye(2, dtype=np.float32)), tmp_path / "m.edgekit")
    return tmp_path / "m.edgekit"


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private key and its public key."""
    private, public = make_key(tmp_path / "key.pem", "p256")
    return private, public


def unpacked(bundle: Path, folder: Path) -> Path:
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    return folder


def judged(model_signing: str, folder: Path, public: Path) -> subprocess.CompletedProcess[str]:
    command = [model_signing, "verify", "key", folder, "--signature", folder / "model.sig", "--public_key", public]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_model_signing_accepts_our_signature_and_refuses_changes(
    bundle: Path, keys: tuple[Path, Path], tmp_path: Path, model_signing: str
) -> None:
    sign(bundle, [read_private_key(keys[0])])
    folder = unpacked(bundle, tmp_path / "unpacked")
    accepted = judged(model_signing, folder, keys[1])
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    (folder / "golden/x.npy").write_bytes(b"other")
    refused = judged(model_signing, folder, keys[1])
    assert refused.returncode != 0
    assert "golden/x.npy" in refused.stdout + refused.stderr


def test_model_signing_refuses_another_key(
    bundle: Path, keys: tuple[Path, Path], tmp_path: Path, model_signing: str
) -> None:
    sign(bundle, [read_private_key(keys[0])])
    _, other = make_key(tmp_path / "other.pem", "p256")
    assert judged(model_signing, unpacked(bundle, tmp_path / "unpacked"), other).returncode != 0


def test_we_accept_signatures_of_model_signing_and_refuse_changes(
    bundle: Path, keys: tuple[Path, Path], tmp_path: Path, model_signing: str
) -> None:
    folder = unpacked(bundle, tmp_path / "unpacked")
    command = [model_signing, "sign", "key", folder, "--signature", folder / "model.sig", "--private_key", keys[0]]
    subprocess.run(command, check=True, capture_output=True)
    with open_bundle(folder, trust=[keys[1]]) as opened:
        opened.verify_all()
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"version": "1.0"', b'"version": "9.0"'))
    with pytest.raises(SignatureInvalid, match=r"manifest\.json' is not what was signed"):
        open_bundle(folder, trust=[keys[1]])


def test_our_signature_and_one_of_model_signing_in_one_file(
    bundle: Path, keys: tuple[Path, Path], tmp_path: Path, model_signing: str
) -> None:
    folder = unpacked(bundle, tmp_path / "unpacked")
    command = [model_signing, "sign", "key", folder, "--signature", folder / "model.sig", "--private_key", keys[0]]
    subprocess.run(command, check=True, capture_output=True)
    private, public = make_key(tmp_path / "new.pem", "ed25519")
    sign(folder, [read_private_key(private)], add=True)
    open_bundle(folder, trust=[public]).close()
    assert judged(model_signing, folder, keys[1]).returncode == 0
