"""Making keys and signing bundles: reproducible, and complete or not written."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle.writer import write_bundle
from edgekit.cli import main
from edgekit_runtime import open_bundle
from edgekit_runtime.errors import DigestMismatch, SignatureInvalid

pytestmark = pytest.mark.needs_cryptography
Write = Callable[..., Path]


@pytest.fixture
def write(linear: Callable[..., Any]) -> Write:
    """Write the identity of two numbers."""

    def to(path: Path, *, folder: bool = False) -> Path:
        write_bundle(*linear(np.eye(2, dtype=np.float32)), path, as_directory=folder)
        return path

    return to


def edgekit(*arguments: str | Path) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture(params=["p256", "ed25519"])
def key(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A private key, with its public key."""
    assert edgekit("keygen", tmp_path / "key.pem", "--type", request.param) == 0
    return tmp_path / "key.pem"


def public(key: Path) -> Path:
    return key.with_name(f"{key.stem}.pub.pem")


@pytest.mark.parametrize("folder", [False, True])
def test_a_signed_bundle_verifies_and_signing_again_changes_nothing(
    write: Write, tmp_path: Path, key: Path, folder: bool
) -> None:
    bundle = write(tmp_path / "m.edgekit", folder=folder)
    assert edgekit("sign", bundle, "--key", key) == 0
    assert edgekit("verify", bundle, "--key", public(key)) == 0
    signature = bundle / "model.sig" if folder else bundle
    before = signature.read_bytes()
    assert edgekit("sign", bundle, "--key", key) == 0
    assert signature.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_the_signed_file_is_still_a_plain_zip_of_the_same_files(write: Write, tmp_path: Path, key: Path) -> None:
    bundle, out = write(tmp_path / "m.edgekit"), tmp_path / "signed.edgekit"
    before = bundle.read_bytes()
    assert edgekit("sign", bundle, "--key", key, "-o", out) == 0
    assert bundle.read_bytes() == before
    with zipfile.ZipFile(bundle) as plain, zipfile.ZipFile(out) as signed:
        assert set(signed.namelist()) - set(plain.namelist()) == {"model.sig"}
        assert all(plain.read(name) == signed.read(name) for name in plain.namelist())


def test_the_signature_covers_every_file(write: Write, tmp_path: Path, key: Path) -> None:
    bundle = write(tmp_path / "m", folder=True)
    assert edgekit("sign", bundle, "--key", key) == 0
    for path in sorted(bundle.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
            with pytest.raises((SignatureInvalid, DigestMismatch)):
                open_bundle(bundle, trust=[public(key)]).verify_all()
            path.write_bytes(content)
    open_bundle(bundle, trust=[public(key)]).verify_all()


def test_a_key_is_replaced_in_two_steps(write: Write, tmp_path: Path, key: Path) -> None:
    bundle, new = write(tmp_path / "m.edgekit"), tmp_path / "new.pem"
    assert edgekit("keygen", new) == 0
    assert edgekit("sign", bundle, "--key", key) == 0
    assert edgekit("sign", bundle, "--key", new, "--add") == 0
    for each in (key, new):  # boards that know the old one, and boards that know the new one
        assert edgekit("verify", bundle, "--key", public(each)) == 0
    assert edgekit("sign", bundle, "--key", new) == 0
    for also in ((), ("--files-only",)):
        assert edgekit("verify", bundle, "--key", public(key), *also) == SignatureInvalid.exit_code


def test_no_signature_is_added_to_one_of_other_contents(
    write: Write, tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write(tmp_path / "m", folder=True)
    assert edgekit("sign", bundle, "--key", key) == 0
    manifest = bundle / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    assert edgekit("sign", bundle, "--key", key, "--add") == SignatureInvalid.exit_code
    assert "other contents" in capsys.readouterr().err
    assert edgekit("sign", bundle, "--key", key) == 0


def test_a_damaged_bundle_is_not_signed(write: Write, tmp_path: Path, key: Path) -> None:
    bundle = write(tmp_path / "m", folder=True)
    golden = bundle / "golden/x.npy"
    golden.write_bytes(golden.read_bytes()[:-1] + b"\1")
    assert edgekit("sign", bundle, "--key", key) == DigestMismatch.exit_code
    assert not (bundle / "model.sig").exists()


def test_keys_are_private_and_never_overwritten(tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    assert edgekit("keygen", key) == 3
    public(key).unlink()
    assert edgekit("keygen", key) == 3
    assert key.read_bytes() == before
    assert not public(key).exists()
    assert "key.pem" in capsys.readouterr().err


def test_a_private_key_can_be_encrypted(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, key = write(tmp_path / "m.edgekit"), tmp_path / "sealed.pem"
    monkeypatch.setenv("EDGEKIT_KEY_PASSWORD", "hunter2")
    assert edgekit("keygen", key) == 0
    assert b"ENCRYPTED" in key.read_bytes()
    assert edgekit("sign", bundle, "--key", key) == 0
    for password in ("", "wrong"):
        monkeypatch.setenv("EDGEKIT_KEY_PASSWORD", password)
        assert edgekit("sign", bundle, "--key", key) == 3
        assert "EDGEKIT_KEY_PASSWORD" in capsys.readouterr().err


def test_a_private_key_of_an_unsupported_type_is_refused(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    other = ec.generate_private_key(ec.SECP256K1())
    pem = other.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    (tmp_path / "other.pem").write_bytes(pem)
    assert edgekit("sign", write(tmp_path / "m.edgekit"), "--key", tmp_path / "other.pem") == 3
    assert "other.pem: is a private key of an unsupported type" in capsys.readouterr().err


def test_the_command_reports_the_signature(
    write: Write, tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write(tmp_path / "m.edgekit")
    capsys.readouterr()
    assert edgekit("sign", bundle, "--key", key, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == 4
    assert edgekit("inspect", bundle) == 0
    assert f"signed   by {told['key_ids'][0][:16]}" in capsys.readouterr().out
    assert told["key_ids"] == [open_bundle(bundle, trust=[public(key)]).signed_by]
    assert edgekit("sign", bundle, "--key", public(key)) == 3
    assert edgekit("sign", bundle, "--key", tmp_path / "missing.pem") == 3
