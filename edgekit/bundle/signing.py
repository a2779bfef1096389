"""Keys, and signatures of whole bundles in the OpenSSF Model Signing format, as `model_signing verify key` reads it.

``edgekit_runtime.trust.signature`` is the reader and has the format's names.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgekit.bundle.writer import Content, write_beside, write_contents
from edgekit_runtime import open_bundle
from edgekit_runtime.errors import PlanError, SignatureInvalid
from edgekit_runtime.format.extents import find_extents
from edgekit_runtime.format.manifest import MANIFEST_NAME, SIGNATURE_NAME
from edgekit_runtime.trust import signature as form
from edgekit_runtime.trust.public_key import CURVES, ED25519, PublicKey, algorithm, read_keys

PASSWORD_NAME = "EDGEKIT_KEY_PASSWORD"  # of private keys that are kept encrypted
INSTALL = "pip install cryptography"
TYPES = ("p256", "ed25519", "aes")


@dataclass(frozen=True)
class PrivateKey:
    """A key that signs."""

    public: PublicKey
    native: Any

    def sign(self, message: bytes) -> bytes:
        """Sign; the same message always gets the same signature (RFC 6979, RFC 8032)."""
        return bytes(self.native.sign(message, *algorithm(self.public.kind, deterministic_signing=True)))


@dataclass(frozen=True)
class Signed:
    """What was signed."""

    bundle: str
    files: int  # that the signature covers
    key_ids: tuple[str, ...]


def sign(bundle: str | Path, keys: Sequence[PrivateKey], out: str | Path | None = None, *, add: bool = False) -> Signed:
    """Sign every file of a bundle, the manifest included, and put the signature into it.

    The same bundle and keys give the same bytes. Nothing is signed before all digests were held.

    Args:
        bundle: a file or a folder.
        keys: each gives a signature; a board is content with one that it trusts.
        out: where the signed bundle goes; None signs the bundle where it is.
        add: keep the signatures that are there, as when one key is being replaced by another.

    Raises:
        BundleError: it is no whole bundle, or what is there already signs something else.
        OSError: the bundle cannot be written.
    """
    with open_bundle(bundle, trust=False) as opened:
        opened.verify_all()
        digests = {MANIFEST_NAME: opened.manifest_sha256, **{file.path: file.sha256 for file in opened.manifest.files}}
        name = opened.manifest.model_name
    contents: dict[str, Content] = {**find_extents(os.fspath(bundle))}
    earlier = _earlier(contents.get(SIGNATURE_NAME), digests) if add else None
    payload = earlier.payload if earlier else statement(name, digests)
    signatures = dict(zip(earlier.key_ids, earlier.signatures, strict=True)) if earlier else {}
    signatures |= {key.public.id: key.sign(form.message(payload)) for key in keys}
    signature = envelope(payload, signatures)
    if out is None and Path(bundle).is_dir():
        write_beside(Path(bundle), SIGNATURE_NAME, signature)
    else:
        write_contents({**contents, SIGNATURE_NAME: signature}, bundle if out is None else out)
    open_bundle(bundle if out is None else out, trust=[key.public.pem for key in keys]).close()
    return Signed(os.fspath(bundle if out is None else out), len(digests), tuple(signatures))


def statement(name: str, digests: Mapping[str, str]) -> bytes:
    """The in-toto statement that a model of this name has these files, by path, with these SHA-256."""
    ordered = sorted(digests.items())
    root = sha256(b"".join(bytes.fromhex(digest) for _, digest in ordered)).hexdigest()
    document = {
        "_type": form.STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": form.PREDICATE_TYPE,
        "predicate": {
            "serialization": {**form.METHOD, "allow_symlinks": False, "ignore_paths": [SIGNATURE_NAME]},
            "resources": [{"name": path, "algorithm": "sha256", "digest": digest} for path, digest in ordered],
        },
    }
    return json.dumps(document, separators=(",", ":")).encode()


def envelope(payload: bytes, signatures: Mapping[str, bytes]) -> bytes:
    """A ``model.sig``: the payload with its signatures, by the id of the key that made them.

    Raises:
        SignatureInvalid: there are more than a reader takes.
    """
    if len(signatures) > form.MAX_SIGNATURES:
        raise SignatureInvalid(f"{len(signatures)} signatures are more than {form.MAX_SIGNATURES}: sign without --add")
    document = {
        "mediaType": form.MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": next(iter(signatures))}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": _base64(payload),
            "payloadType": form.PAYLOAD_TYPE,
            "signatures": [{"sig": _base64(each), "keyid": key_id} for key_id, each in signatures.items()],
        },
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def read_private_key(path: str | Path) -> PrivateKey:
    """A private key in PEM; ``$EDGEKIT_KEY_PASSWORD`` opens one that is encrypted.

    Raises:
        PlanError: it cannot be read, is of another kind, or the password is missing or wrong.
    """
    password = os.environ.get(PASSWORD_NAME)
    with _mapped(path):
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        pem = Path(path).read_bytes()
        native: Any = load_pem_private_key(pem, password.encode() if password and b"ENCRYPTED" in pem else None)
        try:
            public = read_keys(_public_pem(native), str(path))[0]
        except SignatureInvalid as error:
            kinds = f"{ED25519} or ECDSA on {', '.join(CURVES)}"
            raise PlanError(f"{path}: is a private key of a kind that signs no bundles: wanted {kinds}") from error
        return PrivateKey(public, native)


def make_key(path: Path, kind: str) -> list[Path]:
    """Write a new key, readable by its owner alone, and for one that signs its public key beside it.

    Args:
        path: such as ``key.pem``, with ``key.pub.pem`` beside it; ``$EDGEKIT_KEY_PASSWORD``, if set, encrypts it.
        kind: one of ``TYPES``; ``aes`` makes a key that encrypts.

    Returns:
        What was written.

    Raises:
        PlanError: there is something at one of the paths already, or it cannot be written.
    """
    with _mapped(path):
        if kind == "aes":
            return [_new(path, secrets.token_hex(32).encode() + b"\n", 0o600)]
        from cryptography.hazmat.primitives import serialization as form_of
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519

        key = ec.generate_private_key(ec.SECP256R1()) if kind == "p256" else ed25519.Ed25519PrivateKey.generate()
        password = os.environ.get(PASSWORD_NAME, "").encode()
        sealed = form_of.BestAvailableEncryption(password) if password else form_of.NoEncryption()
        private = key.private_bytes(form_of.Encoding.PEM, form_of.PrivateFormat.PKCS8, sealed)
        beside = path.with_name(f"{path.name.removesuffix('.pem')}.pub.pem")
        if beside.exists():
            raise FileExistsError(17, "is there already, and a key that is lost is lost", str(beside))
        return [_new(path, private, 0o600), _new(beside, _public_pem(key), 0o644)]


def _new(path: Path, content: bytes, mode: int) -> Path:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return path


def _earlier(content: Any, digests: Mapping[str, str]) -> form.Envelope | None:
    """The signatures that are there, which must be of exactly these files."""
    if content is None:
        return None
    with content.open() as file:
        found = form.read_envelope(file.read(content.size_bytes))
    if form.statement_digests(found.payload) != digests:
        raise SignatureInvalid("the bundle was signed with other contents: sign it without --add")
    return found


def _public_pem(private: Any) -> bytes:
    """The public key of a private one of the `cryptography` library."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


@contextmanager
def _mapped(path: str | Path) -> Iterator[None]:
    """Turn what `cryptography` and the disk say of a key into an error that says what to do."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
    except ImportError as error:
        raise PlanError(f"keys and signatures need the package cryptography: {INSTALL}") from error
    try:
        yield
    except OSError as error:
        raise PlanError(f"{error.filename or path}: {error.strerror or error}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise PlanError(f"{path}: no private key that can be used (${PASSWORD_NAME} opens one): {error}") from error
