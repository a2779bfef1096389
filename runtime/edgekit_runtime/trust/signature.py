"""Verify ``model.sig``, a signature in the OpenSSF Model Signing format, and read the digests it covers.

The file is a Sigstore bundle in JSON with a DSSE envelope. Its payload is an in-toto statement of the predicate
``https://model_signing/signature/v1.0``, which lists all files with their SHA-256.
https://github.com/secure-systems-lab/dsse, https://github.com/sigstore/model-transparency
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit_runtime.errors import MalformedBundle, SignatureInvalid
from edgekit_runtime.format.manifest import SIGNATURE_NAME
from edgekit_runtime.format.strict_json import decode
from edgekit_runtime.host.sha256 import sha256
from edgekit_runtime.record import dataclass

if TYPE_CHECKING:
    from edgekit_runtime.trust.public_key import PublicKey

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
MAX_SIGNATURES = 16  # of one envelope, for key rotation or several signers
METHOD = {"method": "files", "hash_type": "sha256"}


@dataclass(frozen=True)
class Envelope:
    """A signed payload and its signatures, not verified."""

    payload: bytes  # the in-toto statement
    signatures: tuple[bytes, ...]
    key_ids: tuple[str, ...]  # as the signatures claim; "" if one claims none


@dataclass(frozen=True)
class VerifiedSignature:
    """The digests that a trusted key signed."""

    key_id: str
    digests: dict[str, str]  # SHA-256 in hexadecimal, of every file of the bundle but model.sig

    def check_digests(self, name: str, digests: Mapping[str, str]) -> None:
        """Compare the digests of some files with the signed ones. ``name`` is the bundle, for messages.

        Raises:
            SignatureInvalid: a digest differs.
        """
        for path, digest in digests.items():
            if self.digests.get(path) != digest:
                raise SignatureInvalid(f"{name}: {path!r} is not what was signed: get the bundle again from its source")

    def check_all_digests(self, name: str, digests: Mapping[str, str]) -> None:
        """Compare the digests of all files with the signed ones.

        Raises:
            SignatureInvalid: a digest differs, or a signed file is missing.
        """
        self.check_digests(name, digests)
        for path in sorted(self.digests.keys() - digests.keys()):
            raise SignatureInvalid(f"{name}: {path[:240]!r} was signed and is not in the bundle")


def message(payload: bytes) -> bytes:
    """Return the bytes that are signed: the DSSE v1 pre-authentication encoding of a payload."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def verify_signature(data: bytes, keys: Sequence[PublicKey]) -> VerifiedSignature:
    """Find a signature of a trusted key and return the digests it covers. No other file of the bundle is read.

    Key ids are only for messages: every signature is tried with every key.

    Raises:
        SignatureInvalid: ``model.sig`` is malformed, or no trusted key made one of its signatures.
    """
    envelope = read_envelope(data)
    signed = message(envelope.payload)
    for signature in envelope.signatures:
        for key in keys:
            if key.verifies(signature, signed):
                return VerifiedSignature(key.id, statement_digests(envelope.payload))
    trusted = {key.id for key in keys}
    if trusted & set(envelope.key_ids):
        raise SignatureInvalid(
            "its signature does not match the key that it names: it was changed; get the bundle again from its source"
        )
    by = ", ".join(f"{key_id[:16] or 'an unnamed key'}" for key_id in envelope.key_ids)
    known = ", ".join(sorted(key_id[:16] for key_id in trusted))
    raise SignatureInvalid(f"is signed by {by}, but trusted are {known}: trust that key, or sign with a trusted one")


def read_envelope(data: bytes) -> Envelope:
    """Return the DSSE envelope of a ``model.sig``, without verifying it.

    Raises:
        SignatureInvalid: it is not a Sigstore bundle with an in-toto payload and 1 to ``MAX_SIGNATURES`` signatures.
    """
    document = _json(data, SIGNATURE_NAME)
    _expect(document, "mediaType", MEDIA_TYPE)
    dsse = _get(document, "dsseEnvelope", dict)
    _expect(dsse, "payloadType", PAYLOAD_TYPE)
    signatures = _get(dsse, "signatures", list)
    if not 1 <= len(signatures) <= MAX_SIGNATURES:
        raise SignatureInvalid(f"{SIGNATURE_NAME}: has {len(signatures)} signatures, wanted 1 to {MAX_SIGNATURES}")
    ids = [each.get("keyid", "") if isinstance(each, dict) else "" for each in signatures]
    ids[0] = ids[0] or _hinted_key_id(document)
    return Envelope(
        _base64(_get(dsse, "payload", str)),
        tuple(_base64(_get(each, "sig", str)) for each in signatures),
        tuple(each if isinstance(each, str) and each.isalnum() else "" for each in ids),
    )


def statement_digests(payload: bytes) -> dict[str, str]:
    """Return the files of a statement with their SHA-256.

    Raises:
        SignatureInvalid: the statement has another type, or is inconsistent.
    """
    statement = _json(payload, "its statement")
    _expect(statement, "_type", STATEMENT_TYPE)
    _expect(statement, "predicateType", PREDICATE_TYPE)
    predicate = _get(statement, "predicate", dict)
    serialization = _get(predicate, "serialization", dict)
    for key, value in METHOD.items():
        _expect(serialization, key, value)
    digests: dict[str, str] = {}
    root = sha256(0)
    for resource in _get(predicate, "resources", list):
        _expect(resource, "algorithm", "sha256")
        name, digest = _get(resource, "name", str), _get(resource, "digest", str)
        digests[name] = digest
        root.update(_from_hex(digest))
    subjects = _get(statement, "subject", list)
    if len(digests) != len(predicate["resources"]) or len(subjects) != 1:
        raise SignatureInvalid(f"{SIGNATURE_NAME}: lists a file twice, or not exactly one model")
    _expect(_get(subjects[0], "digest", dict), "sha256", str(root.hexdigest()))
    return digests


def _hinted_key_id(document: Mapping[str, Any]) -> Any:
    """Return the key id that the bundle names for its first signature; "" if none."""
    material = document.get("verificationMaterial")
    key = material.get("publicKey") if isinstance(material, dict) else None
    return key.get("hint", "") if isinstance(key, dict) else ""


def _json(data: bytes, name: str) -> Any:
    try:
        return decode(data, name)
    except MalformedBundle as error:
        raise SignatureInvalid(str(error)) from error


def _get(record: Any, key: str, kind: type) -> Any:
    found = record.get(key) if isinstance(record, dict) else None
    if not isinstance(found, kind):
        raise SignatureInvalid(f"{SIGNATURE_NAME}: {key} is missing or not a {kind.__name__}")
    return found


def _expect(record: Any, key: str, value: str) -> None:
    found = _get(record, key, str)
    if found != value:
        raise SignatureInvalid(f"{SIGNATURE_NAME}: {key} is {found[:80]!r}, expected {value!r}")


def _base64(text: str) -> bytes:
    from base64 import b64decode

    try:
        return b64decode(text, validate=True)
    except ValueError as error:
        raise SignatureInvalid(f"{SIGNATURE_NAME}: has invalid base64: {error}") from error


def _from_hex(digest: str) -> bytes:
    try:
        return bytes.fromhex(digest)
    except ValueError as error:
        raise SignatureInvalid(f"{SIGNATURE_NAME}: {digest[:80]!r} is not a digest") from error
