"""Trusted keys: those of the caller, those of the machine, or none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import edgekit_runtime
from edgekit_runtime import open_bundle
from edgekit_runtime.__main__ import main
from edgekit_runtime.errors import DigestMismatch, SignatureInvalid
from edgekit_runtime.trust import policy

pytestmark = pytest.mark.needs_cryptography
Make = Callable[..., Path]


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """The public key of the signer."""
    from edgekit.bundle.signing import make_key

    return make_key(tmp_path / "ours.pem", "p256")[1]


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another public key."""
    from edgekit.bundle.signing import make_key

    return make_key(tmp_path / "other.pem", "ed25519")[1]


@pytest.fixture
def signed(make: Make, ours: Path) -> Path:
    """The classifier, signed."""
    from edgekit.bundle.signing import read_private_key, sign

    bundle = make()
    sign(bundle, [read_private_key(ours.with_name("ours.pem"))])
    return bundle


@pytest.mark.parametrize("form", ["path", "text", "bytes", "folder", "list"])
def test_a_key_is_a_file_a_folder_or_pem(signed: Path, ours: Path, tmp_path: Path, form: str) -> None:
    (tmp_path / "trust.d").mkdir()
    (tmp_path / "trust.d" / "ours.pem").write_bytes(ours.read_bytes())
    forms = {"path": ours, "text": ours.read_text(), "bytes": ours.read_bytes(), "folder": tmp_path / "trust.d"}
    with edgekit_runtime.load(signed, trust=forms.get(form, [str(ours)])) as model:
        assert model.placement.variant == "null-float32"


def test_one_of_several_keys_is_enough_and_reported(signed: Path, ours: Path, other: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(other.read_bytes() + b"# ours\n" + ours.read_bytes())
    told = open_bundle(signed, trust=[both]).signed_by
    assert told == open_bundle(signed, trust=[ours]).signed_by
    assert told is not None
    assert len(told) == 64


def test_another_key_is_refused(signed: Path, other: Path) -> None:
    with pytest.raises(SignatureInvalid, match="trusted are"):
        edgekit_runtime.load(signed, trust=[other])


def test_an_unsigned_bundle_is_refused(bundle_path: Path, ours: Path) -> None:
    with pytest.raises(SignatureInvalid, match="is not signed"):
        edgekit_runtime.load(bundle_path, trust=[ours])


@pytest.fixture(params=["file", "folder"])
def machine_trusts_us(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Set the environment variable to our key, or to a folder with it."""
    folder = tmp_path / "trust.d"
    folder.mkdir()
    (folder / "ours.pem").write_bytes(ours.read_bytes())
    monkeypatch.setenv(policy.NAME, str(ours if request.param == "file" else folder))


@pytest.mark.usefixtures("machine_trusts_us")
def test_the_environment_names_the_trusted_keys(signed: Path, make: Make, other: Path) -> None:
    edgekit_runtime.load(signed).close()
    edgekit_runtime.load(signed, isolate=True).close()  # the child takes the parent's word
    with pytest.raises(SignatureInvalid):
        open_bundle(signed, trust=[other])  # the caller's keys, not besides the machine's
    unsigned = make(folder=True)
    with pytest.raises(SignatureInvalid, match="is not signed"):
        edgekit_runtime.load(unsigned)
    edgekit_runtime.load(unsigned, trust=False).close()


def test_the_trust_folder_of_the_machine_is_used(
    bundle_path: Path, ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(policy.NAME, raising=False)
    monkeypatch.setattr(policy, "FOLDER", str(tmp_path / "trust.d"))
    open_bundle(bundle_path).close()
    (tmp_path / "trust.d").mkdir()
    with pytest.raises(SignatureInvalid, match="has no public key"):  # empty: broken, so nothing is let in
        open_bundle(bundle_path)
    (tmp_path / "trust.d" / "ours.pem").write_bytes(ours.read_bytes())
    with pytest.raises(SignatureInvalid, match="is not signed"):
        open_bundle(bundle_path)


def test_a_broken_trust_configuration_refuses_everything(signed: Path, ours: Path, tmp_path: Path) -> None:
    empty, junk = tmp_path / "empty.pem", tmp_path / "junk.pem"
    empty.write_bytes(b"")
    junk.write_bytes(ours.read_bytes().replace(b"M", b"N"))
    large = tmp_path / "large.pem"
    large.write_bytes(ours.read_bytes() * 1000)
    wrong = [[], tmp_path / "missing.pem", empty, junk, large, ours.with_name("ours.pem")]
    for keys in wrong:
        with pytest.raises(SignatureInvalid):
            open_bundle(signed, trust=keys)


def test_a_key_of_an_unsupported_type_is_refused(signed: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256K1())):
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        with pytest.raises(SignatureInvalid, match="use ed25519 or ECDSA"):
            open_bundle(signed, trust=pem)


@pytest.mark.parametrize("curve", ["SECP256R1", "SECP384R1", "SECP521R1"])
def test_a_key_is_read_as_by_the_library(curve: str) -> None:
    from hashlib import sha256

    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from edgekit_runtime.trust.public_key import algorithm, read_keys

    private = ec.generate_private_key(getattr(ec, curve)())
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (key,) = read_keys(pem.replace(b"\n", b"\r\n"), "key.pem")
    assert (key.kind, key.pem, key.id) == (curve, pem, sha256(pem).hexdigest())
    signature = private.sign(b"message", *algorithm(curve))
    assert key.verifies(signature, b"message")
    assert not key.verifies(signature, b"massage")
    assert not key.verifies(signature[:-1], b"message")
    assert not key.verifies(b"", b"message")


def test_a_point_outside_the_curve_is_refused(signed: Path, ours: Path) -> None:
    from base64 import b64decode, b64encode

    der = bytearray(b64decode("".join(ours.read_text().splitlines()[1:-1])))
    der[-1] ^= 1
    pem = b"-----BEGIN PUBLIC KEY-----\n" + b64encode(der) + b"\n-----END PUBLIC KEY-----\n"
    with pytest.raises(SignatureInvalid, match="unsupported type"):
        open_bundle(signed, trust=pem)


def test_verifying_needs_two_packages_in_addition_to_numpy(signed: Path, ours: Path) -> None:
    code = (
        "import sys, numpy, edgekit_runtime; edgekit_runtime.load; before = set(sys.modules)\n"
        "sys.modules['pycparser'] = None  # pip brings it for cffi, which needs it to compile alone\n"
        "edgekit_runtime.open_bundle(sys.argv[1], trust=sys.argv[2]).verify_all()\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - {*sys.stdlib_module_names})"
    )
    done = subprocess.run([sys.executable, "-c", code, signed, ours], check=True, capture_output=True, text=True)
    ours_or_cryptographys = {"edgekit_runtime", "cryptography", "_openssl"}
    assert set(done.stdout.split()) - {"pycparser"} - ours_or_cryptographys <= {"_cffi_backend"}


def test_without_cryptography_everything_is_refused(signed: Path, ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(SignatureInvalid, match=r"edgekit-runtime\[verify\]"):
        open_bundle(signed, trust=[ours])


def test_a_child_process_refuses_a_replaced_bundle(signed: Path, ours: Path, make: Make) -> None:
    from edgekit_runtime.engines.child_request import bundle_of, make_request

    bundle = open_bundle(signed, trust=[ours])
    request = make_request(bundle, bundle.manifest.variants[0], None, cache=True)
    bundle_of(request).close()
    signed.unlink()
    make(model_version="2")
    with pytest.raises(DigestMismatch, match="was replaced"):
        bundle_of(request)


def test_the_command_line_accepts_keys(
    signed: Path, ours: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(signed), "--key", str(other), "--key", str(ours)]) == 0
    assert "signed by the trusted key" in capsys.readouterr().out
    assert main(["inspect", str(signed), "--key", str(other)]) == SignatureInvalid.exit_code
    assert "trusted are" in capsys.readouterr().err
