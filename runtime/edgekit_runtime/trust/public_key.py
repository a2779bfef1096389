"""Read public keys and verify signatures with them, using `cryptography`.

PEM is parsed here because `load_pem_public_key` imports all key types and formats that `cryptography` knows
(docs/decisions/0017-small-parts-of-our-own-on-the-board.md has the figures).
``benchmarks/runtime/verify_signature.py`` allows 10 ms for everything except hashing.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from typing import Any

from edgekit_runtime.errors import SignatureInvalid
from edgekit_runtime.host.sha256 import hex_digest
from edgekit_runtime.record import dataclass

INSTALL = "pip install 'edgekit-runtime[verify]'"
ED25519 = "ed25519"
CURVES = {"SECP256R1": "SHA256", "SECP384R1": "SHA384", "SECP521R1": "SHA512"}  # the hash of each curve, as in Sigstore
# Prefix of a SubjectPublicKeyInfo -> key type and size of the key in bytes. RFC 8410; RFC 5480, uncompressed points.
DER_PREFIXES = {
    bytes.fromhex("302a300506032b6570032100"): (ED25519, 32),
    bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200"): ("SECP256R1", 65),
    bytes.fromhex("3076301006072a8648ce3d020106052b81040022036200"): ("SECP384R1", 97),
    bytes.fromhex("30819b301006072a8648ce3d020106052b8104002303818600"): ("SECP521R1", 133),
}
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)


@dataclass(frozen=True)
class PublicKey:
    """A public key."""

    id: str  # SHA-256 of its PEM, as in the hint of a Sigstore bundle
    kind: str  # ED25519, or the curve of an ECDSA key
    pem: bytes
    native: Any

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Return whether this key signed exactly this message."""
        from cryptography.exceptions import InvalidSignature

        try:
            self.native.verify(signature, message, *algorithm(self.kind))
        except InvalidSignature:
            return False
        return True


def algorithm(kind: str, **options: Any) -> tuple[Any, ...]:
    """Return the algorithm arguments of `cryptography`: ECDSA with the hash of the curve, or none for Ed25519."""
    if kind == ED25519:
        return ()
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return (ec.ECDSA(getattr(hashes, CURVES[kind])(), **options),)


def read_keys(pem: bytes, name: str) -> tuple[PublicKey, ...]:
    """Return the public keys of a PEM text. ``name`` is its source, for messages.

    Raises:
        SignatureInvalid: the text has no public key, a private key, or a key of an unsupported type.
    """
    blocks = _PEM.findall(pem)
    if any(b"PRIVATE" in label for label, _ in blocks):
        raise SignatureInvalid(f"{name}: has a private key: give the public key instead")
    keys = tuple(_key(body, name) for label, body in blocks if label == b"PUBLIC KEY")
    if not keys:
        raise SignatureInvalid(f"{name}: has no public key in PEM: make one with `edgekit keygen`")
    return keys


def _key(body: bytes, name: str) -> PublicKey:
    try:
        data = b64decode(b"".join(body.split()), validate=True)
        kind, point = next(
            (kind, data[len(prefix) :])
            for prefix, (kind, size_bytes) in DER_PREFIXES.items()
            if data.startswith(prefix) and len(data) == len(prefix) + size_bytes
        )
        native = _native(kind, point)
    except (ValueError, StopIteration) as error:
        supported = f"use {ED25519} or ECDSA on {', '.join(CURVES)}"
        raise SignatureInvalid(f"{name}: has a public key of an unsupported type: {supported}") from error
    except ImportError as error:
        raise SignatureInvalid(f"verifying signatures needs the package cryptography ({error}): {INSTALL}") from error
    lines = re.findall(b".{1,64}", b64encode(data))
    pem = b"\n".join([b"-----BEGIN PUBLIC KEY-----", *lines, b"-----END PUBLIC KEY-----", b""])
    return PublicKey(hex_digest(pem), kind, pem, native)


def _native(kind: str, point: bytes) -> Any:
    """Return the key object of `cryptography`; raise ValueError if the point is not on the curve."""
    if kind == ED25519:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        return Ed25519PublicKey.from_public_bytes(point)
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.EllipticCurvePublicKey.from_encoded_point(getattr(ec, kind)(), point)
