"""Encrypted artifacts: no decrypted bytes on the disk, and everything works with the key."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit_runtime
from edgekit.bundle.delta import make_delta
from edgekit.bundle.encryption import encrypt, encrypt_content
from edgekit.bundle.writer import write_bundle
from edgekit.cli import main
from edgekit_runtime import open_bundle
from edgekit_runtime.errors import BundleError, DecryptionFailed, DigestMismatch, MalformedBundle, PlanError
from edgekit_runtime.store.install import InstallOptions, install_from

pytestmark = pytest.mark.needs_cryptography
KEY, OTHER = bytes(range(32)), bytes(32)
ARTIFACT = "variants/v/weights.npy"


@pytest.fixture
def clear(linear: Callable[..., Any], tmp_path: Path) -> Path:
    """The identity of two numbers, as a file."""
    write_bundle(*linear(np.eye(2, dtype=np.float32)), tmp_path / "m.edgekit")
    return tmp_path / "m.edgekit"


@pytest.fixture
def secret(clear: Path, tmp_path: Path) -> Path:
    """The same bundle, encrypted with KEY."""
    encrypt(clear, KEY, tmp_path / "secret.edgekit")
    return tmp_path / "secret.edgekit"


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEKIT_KEY", raising=False)
    monkeypatch.delenv("EDGEKIT_KEY_FILE", raising=False)


def edgekit(*arguments: str | Path) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize("isolate", [False, True])
def test_with_the_key_it_runs_and_writes_no_decrypted_bytes_to_disk(
    secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolate: bool
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    weights = np.eye(2, dtype=np.float32).tobytes()
    with edgekit_runtime.load(secret, decryption_key=KEY, isolate=isolate) as model:
        assert model(np.array([[3.0, 4.0]], np.float32)).tolist() == [[3.0, 4.0]]
        on_disk = [path for path in scratch.rglob("*") if path.is_file() and not path.is_symlink()]
        assert not [path for path in on_disk if weights in path.read_bytes()]
    assert weights not in secret.read_bytes()
    assert list(scratch.iterdir()) == []


def test_no_descriptor_stays_open(secret: Path) -> None:
    before = os.listdir("/proc/self/fd")
    edgekit_runtime.load(secret, decryption_key=KEY).close()
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("how", ["bytes", "file", "EDGEKIT_KEY", "EDGEKIT_KEY_FILE"])
def test_the_key_is_read_from_the_argument_or_the_environment(
    secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    file = tmp_path / "a.key"
    file.write_text(f"{KEY.hex()}\n")
    if how.isupper():
        monkeypatch.setenv(how, str(file) if how.endswith("FILE") else KEY.hex())
    given = {"bytes": KEY, "file": file}.get(how)
    edgekit_runtime.load(secret, decryption_key=given).close()


def test_without_the_key_everything_except_running_works(secret: Path) -> None:
    with open_bundle(secret) as bundle:
        bundle.verify_all()
        assert bundle.array("golden/x.npy").shape == (1, 1, 2)
        assert {record.path for record in bundle.manifest.files if record.encryption} == {ARTIFACT}
    with pytest.raises(DecryptionFailed, match=r"EDGEKIT_KEY_FILE"):
        edgekit_runtime.load(secret)


@pytest.mark.parametrize("key", [OTHER, KEY[:31], b""])
def test_a_wrong_key_is_refused(secret: Path, key: bytes) -> None:
    with pytest.raises(DecryptionFailed, match=r"cannot be decrypted with this key|bytes, not 32"):
        edgekit_runtime.load(secret, decryption_key=key)


@pytest.mark.parametrize("text", ["", "zz" * 32, "00" * 31, "\udcff" * 64])
def test_an_invalid_key_file_is_refused_and_not_printed(secret: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.key"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DecryptionFailed, match=r"a\.key") as refusal:
        edgekit_runtime.load(secret, decryption_key=file)
    assert not text or text[:8] not in "".join(traceback.format_exception(refusal.value))
    with pytest.raises(DecryptionFailed, match="cannot be read"):
        edgekit_runtime.load(secret, decryption_key=tmp_path / "missing.key")


def test_a_changed_ciphertext_has_another_digest(clear: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with open_bundle(clear) as bundle:
        files = {record.path: bundle.read(record.path) for record in bundle.manifest.files}
        write_bundle(bundle.manifest, files, folder, as_directory=True)
    encrypt(folder, KEY, tmp_path / "secret")
    artifact = tmp_path / "secret" / ARTIFACT
    artifact.write_bytes(artifact.read_bytes()[:-1] + b"\0")
    with pytest.raises(DigestMismatch):
        edgekit_runtime.load(tmp_path / "secret", decryption_key=KEY)


def test_a_ciphertext_of_another_path_or_a_short_one_is_refused(clear: Path, tmp_path: Path) -> None:
    with open_bundle(clear) as bundle:
        files = {record.path: bundle.read(record.path) for record in bundle.manifest.files}
        for name, content in (
            ("moved", encrypt_content(files[ARTIFACT], KEY, "variants/w/weights.npy")),
            ("short", b"12345"),
        ):
            out = tmp_path / f"{name}.edgekit"
            write_bundle(bundle.manifest, {**files, ARTIFACT: content}, out, encrypted=[ARTIFACT])
            with pytest.raises(DecryptionFailed):
                edgekit_runtime.load(out, decryption_key=KEY)
        with pytest.raises(MalformedBundle, match="belongs to no variant"):
            write_bundle(bundle.manifest, files, tmp_path / "golden.edgekit", encrypted=["golden/x.npy"])


def test_the_same_key_gives_the_same_bytes_and_no_nonce_twice(clear: Path, secret: Path, tmp_path: Path) -> None:
    encrypt(clear, KEY, tmp_path / "again.edgekit")
    assert (tmp_path / "again.edgekit").read_bytes() == secret.read_bytes()
    nonces = {encrypt_content(clear, key, path)[:12] for clear in (b"a", b"b") for path in "xy" for key in (KEY, OTHER)}
    assert len(nonces) == 8


def test_encrypted_and_signed(secret: Path, clear: Path, tmp_path: Path) -> None:
    assert edgekit("keygen", tmp_path / "k.pem") == 0
    assert edgekit("sign", secret, "--key", tmp_path / "k.pem") == 0
    edgekit_runtime.load(secret, trust=[tmp_path / "k.pub.pem"], decryption_key=KEY).close()
    assert edgekit("sign", clear, "--key", tmp_path / "k.pem") == 0
    with pytest.raises(PlanError, match="encrypt first, then sign"):
        encrypt(clear, KEY, tmp_path / "out.edgekit")


def test_the_command(clear: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, out = tmp_path / "a.key", tmp_path / "out.edgekit"
    assert edgekit("keygen", key, "--type", "aes") == 0
    assert edgekit("encrypt", clear, "--key", key, "-o", out) == 0
    assert ARTIFACT in capsys.readouterr().out
    assert edgekit("inspect", out) == 0
    assert ", encrypted" in capsys.readouterr().out
    edgekit_runtime.load(out, decryption_key=key).close()
    assert edgekit("verify", out) == DecryptionFailed.exit_code
    assert edgekit("verify", out, "--files-only") == 0
    assert "every file is whole" in capsys.readouterr().out
    assert edgekit("encrypt", out, "--key", key, "-o", tmp_path / "twice.edgekit") == PlanError.exit_code
    assert "already" in capsys.readouterr().err
    assert edgekit("encrypt", clear, "-o", tmp_path / "keyless.edgekit") == BundleError.exit_code
    assert not (tmp_path / "keyless.edgekit").exists()


def test_a_delta_of_encrypted_bundles_needs_no_key(clear: Path, secret: Path, tmp_path: Path) -> None:
    store, delta = str(tmp_path / "store"), tmp_path / "x.delta"
    report = make_delta(clear, secret, delta, codec="zlib")
    assert next(file for file in report.files if file.path == ARTIFACT).delta_bytes > 0
    install_from(clear, None, store, InstallOptions(commit=True))
    done, note = install_from(delta, None, store, InstallOptions(commit=True))
    assert (done.changed, note) == (True, "")
    with open_bundle(store) as made, open_bundle(secret) as wanted:
        made.verify_all()
        assert made.unlisted() == wanted.unlisted()


def test_a_missing_bundle_is_reported(tmp_path: Path) -> None:
    with pytest.raises(MalformedBundle, match=r"nowhere\.edgekit: cannot be read"):
        encrypt(tmp_path / "nowhere.edgekit", KEY, tmp_path / "out.edgekit")


def test_a_missing_cryptography_package_is_reported(
    clear: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(PlanError, match="pip install cryptography"):
        encrypt(clear, KEY, tmp_path / "out.edgekit")
    assert not (tmp_path / "out.edgekit").exists()


@pytest.mark.parametrize("out", ["no/such/folder/out", "a folder"])
@pytest.mark.parametrize("verb", ["encrypt", "sign", "delta"])
def test_an_unwritable_output_is_reported(
    verb: str, out: str, clear: Path, secret: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a folder").mkdir()
    edgekit("keygen", tmp_path / "key.pem")
    (tmp_path / "key").write_text(KEY.hex())
    asked = {
        "encrypt": (clear, "--key", tmp_path / "key"),
        "sign": (clear, "--key", tmp_path / "key.pem"),
        "delta": (clear, secret, "--codec", "zlib"),
    }
    before = sorted(tmp_path.rglob("*"))
    assert edgekit(verb, *asked[verb], "-o", tmp_path / out) == 3
    assert f"{tmp_path / out} cannot be written: " in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
