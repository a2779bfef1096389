"""Make keys, and sign bundles in the OpenSSF Model Signing format, which `model_signing verify key` reads.

``edgekit_runtime.trust.signature`` verifies the signatures and defines the names of the format.
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

from edgekit.bundle.writer import Content, replace_file, write_contents
from edgekit_runtime import open_bundle
from edgekit_runtime.errors import PlanError, SignatureInvalid
from edgekit_runtime.format.extents import find_extents
from edgekit_runtime.format.manifest import MANIFEST_NAME, SIGNATURE_NAME
from edgekit_runtime.trust import signature as signature_format
from edgekit_runtime.trust.public_key import CURVES, ED25519, PublicKey, algorithm, read_keys

PASSWORD_NAME = "EDGEKIT_KEY_PASSWORD"  # of encrypted private keys
INSTALL = "pip install cryptography"
KEY_TYPES = ("p256", "ed25519", "aes")


@dataclass(frozen=True)
class PrivateKey:
    """A private key and its public key."""

    public: PublicKey
    native: Any

    def sign(self, message: bytes) -> bytes:
        """Sign a message. Signatures are deterministic (RFC 6979, RFC 8032)."""
        return bytes(self.native.sign(message, *algorithm(self.public.kind, deterministic_signing=True)))


@dataclass(frozen=True)
class SigningResult:
    """The result of signing a bundle."""

    bundle: str
    files: int  # that the signature covers
    key_ids: tuple[str, ...]


def sign(
    bundle: str | Path, keys: Sequence[PrivateKey], out: str | Path | None = None, *, add: bool = False
) -> SigningResult:
    """Sign all files of a bundle, including the manifest, and add the signature to the bundle.

    The same bundle and keys give the same bytes. All digests are checked before the bundle is signed.

    Args:
        bundle: a file or a folder.
        keys: one signature is made with each; a board needs to trust only one of them.
        out: path of the signed bundle; None signs the bundle in place.
        add: keep the existing signatures, for example while a key is being replaced.

    Raises:
        BundleError: the bundle is damaged, or its existing signatures are for other contents.
        OSError: the bundle cannot be written.
    """
    with open_bundle(bundle, trust=False) as opened:
        opened.verify_all()
        digests = {MANIFEST_NAME: opened.manifest_sha256, **{file.path: file.sha256 for file in opened.manifest.files}}
        name = opened.manifest.model_name
    contents: dict[str, Content] = {**find_extents(os.fspath(bundle))}
    existing = _existing_envelope(contents.get(SIGNATURE_NAME), digests) if add else None
    payload = existing.payload if existing else statement(name, digests)
    signatures = dict(zip(existing.key_ids, existing.signatures, strict=True)) if existing else {}
    signatures |= {key.public.id: key.sign(signature_format.message(payload)) for key in keys}
    signature = envelope(payload, signatures)
    if out is None and Path(bundle).is_dir():
        replace_file(Path(bundle), SIGNATURE_NAME, signature)
    else:
        write_contents({**contents, SIGNATURE_NAME: signature}, bundle if out is None else out)
    open_bundle(bundle if out is None else out, trust=[key.public.pem for key in keys]).close()
    return SigningResult(os.fspath(bundle if out is None else out), len(digests), tuple(signatures))


def statement(name: str, digests: Mapping[str, str]) -> bytes:
    """Return the in-toto statement for a model name and the SHA-256 of its files, by path."""
    ordered = sorted(digests.items())
    root = sha256(b"".join(bytes.fromhex(digest) for _, digest in ordered)).hexdigest()
    document = {
        "_type": signature_format.STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": signature_format.PREDICATE_TYPE,
        "predicate": {
            "serialization": {**signature_format.METHOD, "allow_symlinks": False, "ignore_paths": [SIGNATURE_NAME]},
            "resources": [{"name": path, "algorithm": "sha256", "digest": digest} for path, digest in ordered],
        },
    }
    return json.dumps(document, separators=(",", ":")).encode()


def envelope(payload: bytes, signatures: Mapping[str, bytes]) -> bytes:
    """Return the content of a ``model.sig``: the payload and its signatures by key id.

    Raises:
        SignatureInvalid: there are more signatures than a reader accepts.
    """
    if len(signatures) > signature_format.MAX_SIGNATURES:
        limit = signature_format.MAX_SIGNATURES
        raise SignatureInvalid(f"{len(signatures)} signatures, the limit is {limit}: sign without --add")
    document = {
        "mediaType": signature_format.MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": next(iter(signatures))}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": _base64(payload),
            "payloadType": signature_format.PAYLOAD_TYPE,
            "signatures": [{"sig": _base64(each), "keyid": key_id} for key_id, each in signatures.items()],
        },
    }
    return json.dumps(document, indent=1).encode() + b"\n"


def read_private_key(path: str | Path) -> PrivateKey:
    """Read a private key in PEM; ``$EDGEKIT_KEY_PASSWORD`` decrypts it.

    Raises:
        PlanError: the key cannot be read, has an unsupported type, or the password is missing or wrong.
    """
    password = os.environ.get(PASSWORD_NAME)
    with _key_errors(path):
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        pem = Path(path).read_bytes()
        native: Any = load_pem_private_key(pem, password.encode() if password and b"ENCRYPTED" in pem else None)
        try:
            public = read_keys(_public_pem(native), str(path))[0]
        except SignatureInvalid as error:
            kinds = f"{ED25519} or ECDSA on {', '.join(CURVES)}"
            raise PlanError(f"{path}: is a private key of an unsupported type: use {kinds}") from error
        return PrivateKey(public, native)


def make_key(path: Path, kind: str) -> list[Path]:
    """Write a new key, readable only by its owner, and for a signing key its public key next to it.

    Args:
        path: such as ``key.pem``; the public key is ``key.pub.pem``. ``$EDGEKIT_KEY_PASSWORD``, if set, encrypts it.
        kind: one of ``KEY_TYPES``; ``aes`` makes an encryption key.

    Returns:
        The paths of the files written.

    Raises:
        PlanError: one of the files exists already, or cannot be written.
    """
    with _key_errors(path):
        if kind == "aes":
            return [_write_new_file(path, secrets.token_hex(32).encode() + b"\n", 0o600)]
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519

        key = ec.generate_private_key(ec.SECP256R1()) if kind == "p256" else ed25519.Ed25519PrivateKey.generate()
        password = os.environ.get(PASSWORD_NAME, "").encode()
        encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        public_path = path.with_name(f"{path.name.removesuffix('.pem')}.pub.pem")
        if public_path.exists():
            raise FileExistsError(17, "exists already and is not overwritten: choose another name", str(public_path))
        return [_write_new_file(path, private, 0o600), _write_new_file(public_path, _public_pem(key), 0o644)]


def _write_new_file(path: Path, content: bytes, mode: int) -> Path:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return path


def _existing_envelope(content: Any, digests: Mapping[str, str]) -> signature_format.Envelope | None:
    """Return the existing signatures, after checking that they are for exactly these files."""
    if content is None:
        return None
    with content.open() as file:
        found = signature_format.read_envelope(file.read(content.size_bytes))
    if signature_format.statement_digests(found.payload) != digests:
        raise SignatureInvalid("the bundle was signed with other contents: sign it without --add")
    return found


def _public_pem(private: Any) -> bytes:
    """Return the public key of a private key object of `cryptography`, in PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


@contextmanager
def _key_errors(path: str | Path) -> Iterator[None]:
    """Turn errors of `cryptography` and the file system into a PlanError."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
    except ImportError as error:
        raise PlanError(f"keys and signatures need the package cryptography: {INSTALL}") from error
    try:
        yield
    except OSError as error:
        raise PlanError(f"{error.filename or path}: {error.strerror or error}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise PlanError(
            f"{path}: not a usable private key (set ${PASSWORD_NAME} if it is encrypted): {error}"
        ) from error
