"""Hostile bundles, one per function: each is refused with a BundleError, in less than a second and 50 MB.

The other files of this folder try the variations; here are the kinds, and what refusing them costs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import edgekit_runtime
from edgekit_runtime.errors import (
    BundleError,
    DigestMismatch,
    IncompatibleDevice,
    MalformedBundle,
    SignatureInvalid,
    UnsupportedVersion,
)

LayOut = Callable[..., bytes]
MOST_S, MOST_BYTES = 1.0, 50_000_000


@dataclass
class Craft:
    """The parts of hostile bundles: valid bundles and functions to modify them."""

    tiny: Any
    signed: dict[str, bytes]
    lay_out: LayOut

    def plain(self, **how: Any) -> bytes:
        """Return the modified small bundle with all files listed."""
        self.tiny.list_files()
        return self.lay_out(self.tiny.entries(), **how)

    def manifest(self, text: str | bytes) -> bytes:
        """Return the small bundle with this manifest text."""
        return self.lay_out(self.tiny.entries(text.encode() if isinstance(text, str) else text))

    def replaced(self, old: str, new: str) -> bytes:
        """Return the small bundle with one change in its manifest."""
        text = json.dumps(self.tiny.document)
        assert text.count(old) >= 1
        return self.manifest(text.replace(old, new, 1))

    def envelope(self) -> dict[str, Any]:
        """Return the envelope of the signed bundle."""
        found: dict[str, Any] = json.loads(self.signed["model.sig"])
        return found

    def with_envelope(self, envelope: dict[str, Any]) -> bytes:
        """Return the signed bundle with another envelope."""
        return self.lay_out({**self.signed, "model.sig": json.dumps(envelope).encode()})

    def with_statement(self, change: Callable[[dict[str, Any]], None], **sealed: Any) -> bytes:
        """Return the signed bundle with a statement changed after signing."""
        envelope = self.envelope()
        statement = json.loads(base64.b64decode(envelope["dsseEnvelope"]["payload"]))
        change(statement)
        payload = base64.b64encode(json.dumps(statement, separators=(",", ":")).encode()).decode()
        envelope["dsseEnvelope"] |= {"payload": payload, **sealed}
        return self.with_envelope(envelope)


def path_escape(craft: Craft) -> bytes:
    craft.tiny.files["../../escaped"] = b"payload"
    return craft.plain()


def absolute_path(craft: Craft) -> bytes:
    craft.tiny.files["/etc/cron.d/escaped"] = b"payload"
    return craft.plain()


def link(craft: Craft) -> bytes:
    entries = craft.tiny.entries()
    entries[1].content, entries[1].central["external"] = b"/etc/passwd", 0o120777 << 16
    return craft.lay_out(entries)


def duplicate_name(craft: Craft) -> bytes:
    entries = craft.tiny.entries()
    return craft.lay_out([*entries, entries[-1]])


def second_manifest(craft: Craft) -> bytes:
    entries = craft.tiny.entries()
    return craft.lay_out([*entries, entries[0]])


def overlapping_entries(craft: Craft) -> bytes:
    entries = craft.tiny.entries()
    entries[2].offset = 0
    return craft.lay_out(entries)


def compressed_bomb(craft: Craft) -> bytes:
    entries = craft.tiny.entries()
    for header in (entries[1].local, entries[1].central):
        header |= {"compression": 8, "size": 1 << 31, "stored": len(entries[1].content)}
    return craft.lay_out(entries)


def many_files(craft: Craft) -> bytes:
    craft.tiny.files |= {f"more/{i}": b"" for i in range(20_000)}
    return craft.plain()


def truncated(craft: Craft) -> bytes:
    return craft.plain()[:-100]


def oversize_numbers_in_the_directory(craft: Craft) -> bytes:
    return craft.plain(end={"count": 0xFFFF, "here": 0xFFFF, "size": 0xFFFFFFFF, "start": 0xFFFFFFFF})


def oversize_numbers_in_the_manifest(craft: Craft) -> bytes:
    return craft.replaced('"shape": [1, 2]', '"shape": [65536, 65536, 65536]')


def integer_without_end(craft: Craft) -> bytes:
    return craft.replaced('"size_bytes": ', '"size_bytes": ' + "9" * 500_000)


def unlisted_file(craft: Craft) -> bytes:
    craft.tiny.list_files()
    craft.tiny.files["variants/v/libdelegate.so"] = b"\x7fELF"
    return craft.lay_out(craft.tiny.entries())


def digest_mismatch(craft: Craft) -> bytes:
    craft.tiny.files["variants/v/eye.npy"] = craft.tiny.files["variants/v/eye.npy"][:-1] + b"\1"
    return craft.lay_out(craft.tiny.entries())


def deep_json(craft: Craft) -> bytes:
    return craft.manifest('{"a":' * 170_000 + "1" + "}" * 170_000)


def json_that_swells(craft: Craft) -> bytes:
    return craft.manifest('{"format_version": 1, "recipe": {"a": [' + '{"":0},' * 140_000 + "0]}}")


def quotes_without_end(craft: Craft) -> bytes:
    return craft.manifest('"' + '\\"' * 500_000)


def not_utf_8(craft: Craft) -> bytes:
    return craft.manifest(b'{"format_version": 1, "model": "\xff\xfe"}')


def tolerance_that_is_no_number(craft: Craft) -> bytes:
    return craft.replaced('"max_abs": [0.0]', '"max_abs": [NaN]')


def tolerance_without_bound(craft: Craft) -> bytes:
    return craft.replaced('"max_abs": [0.0]', '"max_abs": [1e999]')


def tolerance_that_lets_anything_pass(craft: Craft) -> bytes:
    return craft.replaced('"max_abs": [0.0]', '"max_abs": [3e38]')


def wrong_board(craft: Craft) -> bytes:
    craft.tiny.document["variants"][0]["requirements"] = {"arch": ["none-there-is"]}
    return craft.plain()


def newer_format(craft: Craft) -> bytes:
    return craft.replaced('"format_version": 1', '"format_version": 2')


def pickle_for_an_array(craft: Craft) -> bytes:
    craft.tiny.files["golden/x.npy"] = b"cos\nsystem\n(S'touch /tmp/escaped'\ntR."
    return craft.plain()


def unsigned(craft: Craft) -> bytes:
    del craft.signed["model.sig"]
    return craft.lay_out(craft.signed)


def manifest_swapped_under_a_valid_signature(craft: Craft) -> bytes:
    craft.signed["manifest.json"] = craft.signed["manifest.json"].replace(b'"name": "quarters"', b'"name": "halves"')
    return craft.lay_out(craft.signed)


def artifact_swapped_with_its_digest_under_a_valid_signature(craft: Craft) -> bytes:
    path = "variants/clear/weights.npy"
    before = hashlib.sha256(craft.signed[path]).hexdigest()
    craft.signed[path] = craft.signed[path][:-1] + b"\1"
    after = hashlib.sha256(craft.signed[path]).hexdigest()
    craft.signed["manifest.json"] = craft.signed["manifest.json"].replace(before.encode(), after.encode())
    return craft.lay_out(craft.signed)


def artifact_swapped_alone_under_a_valid_signature(craft: Craft) -> bytes:
    path = "variants/clear/weights.npy"
    craft.signed[path] = craft.signed[path][:-1] + b"\1"
    return craft.lay_out(craft.signed)


def signature_of_another_bundle(craft: Craft) -> bytes:
    craft.tiny.list_files()
    manifest = json.dumps(craft.tiny.document).encode()
    return craft.lay_out(
        {"manifest.json": manifest, **craft.tiny.files, "model.sig": craft.signed["model.sig"]},
    )


def statement_changed_after_it_was_signed(craft: Craft) -> bytes:
    craft.signed["manifest.json"] = craft.signed["manifest.json"].replace(b'"name": "quarters"', b'"name": "halves"')
    digest = hashlib.sha256(craft.signed["manifest.json"]).hexdigest()

    def change(statement: dict[str, Any]) -> None:
        resources = statement["predicate"]["resources"]
        next(each for each in resources if each["name"] == "manifest.json")["digest"] = digest
        whole = b"".join(bytes.fromhex(each["digest"]) for each in resources)
        statement["subject"][0]["digest"]["sha256"] = hashlib.sha256(whole).hexdigest()

    return craft.with_statement(change)


def payload_type_that_was_not_signed(craft: Craft) -> bytes:
    return craft.with_statement(lambda statement: None, payloadType="application/json")


def flipped_signature(craft: Craft) -> bytes:
    envelope = craft.envelope()
    for each in envelope["dsseEnvelope"]["signatures"]:
        spoiled = bytearray(base64.b64decode(each["sig"]))
        spoiled[-1] ^= 1
        each["sig"] = base64.b64encode(spoiled).decode()
    return craft.with_envelope(envelope)


def signature_of_zeros(craft: Craft) -> bytes:
    """CVE-2022-21449: r and s are 0."""
    envelope = craft.envelope()
    zeros = base64.b64encode(bytes.fromhex("3006020100020100")).decode()
    envelope["dsseEnvelope"]["signatures"] = [{"sig": zeros, "keyid": ""}]
    return craft.with_envelope(envelope)


def no_signature_at_all(craft: Craft) -> bytes:
    envelope = craft.envelope()
    envelope["dsseEnvelope"]["signatures"] = []
    return craft.with_envelope(envelope)


def signatures_without_end(craft: Craft) -> bytes:
    envelope = craft.envelope()
    envelope["dsseEnvelope"]["signatures"] *= 1000
    return craft.with_envelope(envelope)


def deep_json_for_a_signature(craft: Craft) -> bytes:
    return craft.lay_out({**craft.signed, "model.sig": b"[" * 500_000})


def giant_signature(craft: Craft) -> bytes:
    return craft.lay_out({**craft.signed, "model.sig": b" " * 30_000_000})


def two_signatures_of_one_name(craft: Craft) -> bytes:
    entries = craft.lay_out({**craft.signed, "MODEL.SIG": craft.signed["model.sig"]})
    return entries


PLAIN: dict[Callable[[Craft], bytes], type[BundleError]] = {
    **dict.fromkeys(
        (
            *(path_escape, absolute_path, link, duplicate_name, second_manifest, overlapping_entries, compressed_bomb),
            *(many_files, truncated, oversize_numbers_in_the_directory, oversize_numbers_in_the_manifest),
            *(integer_without_end, unlisted_file, deep_json, not_utf_8, tolerance_that_is_no_number),
            *(json_that_swells, quotes_without_end),
            *(tolerance_without_bound, tolerance_that_lets_anything_pass, pickle_for_an_array),
        ),
        MalformedBundle,
    ),
    digest_mismatch: DigestMismatch,
    wrong_board: IncompatibleDevice,
    newer_format: UnsupportedVersion,
}
SIGNED: dict[Callable[[Craft], bytes], type[BundleError]] = {
    **dict.fromkeys(
        (
            *(unsigned, manifest_swapped_under_a_valid_signature, signature_of_another_bundle, flipped_signature),
            *(artifact_swapped_with_its_digest_under_a_valid_signature, statement_changed_after_it_was_signed),
            *(payload_type_that_was_not_signed, signature_of_zeros, no_signature_at_all, signatures_without_end),
            deep_json_for_a_signature,
        ),
        SignatureInvalid,
    ),
    artifact_swapped_alone_under_a_valid_signature: DigestMismatch,
    giant_signature: MalformedBundle,
    two_signatures_of_one_name: MalformedBundle,
}


@pytest.fixture
def craft(tiny: Any, signed: dict[str, bytes], lay_out: LayOut) -> Craft:
    """Unmodified parts."""
    return Craft(tiny, signed, lay_out)


@pytest.fixture
def trusted(repository: Path) -> Path:
    """The key of the valid bundle."""
    return repository / "tests" / "compat" / "for-tests-only-p256.pub.pem"


def named(attack: Callable[[Craft], bytes]) -> str:
    return attack.__name__


@pytest.mark.parametrize("attack", PLAIN, ids=named)
def test_a_hostile_bundle_is_refused(craft: Craft, tmp_path: Path, attack: Callable[[Craft], bytes]) -> None:
    hostile = tmp_path / "hostile.edgekit"
    hostile.write_bytes(attack(craft))
    with pytest.raises(PLAIN[attack]) as refusal:
        edgekit_runtime.load(hostile, check="always")
    assert len(str(refusal.value)) < 2000
    assert not list(tmp_path.parent.rglob("escaped"))


@pytest.mark.needs_cryptography
@pytest.mark.parametrize("attack", SIGNED, ids=named)
def test_a_hostile_signature_is_refused(
    craft: Craft, tmp_path: Path, trusted: Path, attack: Callable[[Craft], bytes]
) -> None:
    hostile = tmp_path / "hostile.edgekit"
    hostile.write_bytes(attack(craft))
    with pytest.raises(SIGNED[attack]) as refusal:
        edgekit_runtime.load(hostile, check="always", trust=[trusted])
    assert len(str(refusal.value)) < 2000


@pytest.mark.needs_cryptography
def test_the_valid_bundle_is_trusted_only_with_its_key(craft: Craft, tmp_path: Path, trusted: Path) -> None:
    from edgekit.bundle.signing import make_key

    honest = tmp_path / "honest.edgekit"
    honest.write_bytes(craft.lay_out(craft.signed))
    edgekit_runtime.load(honest, check="always", trust=[trusted]).close()
    with pytest.raises(SignatureInvalid, match="trusted are"):
        edgekit_runtime.load(honest, trust=[make_key(tmp_path / "stranger.pem", "p256")[1]])


CHILD = """
import json, os, sys, time
import numpy, edgekit_runtime
from edgekit_runtime.errors import BundleError
def memory_bytes(field):  # getrusage would tell of the parent, too
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields[field].split()[0]) * 1024
folder, trust = sys.argv[1], sys.argv[2] or None
edgekit_runtime.load
before, told = memory_bytes("VmRSS"), {}
for name in sorted(os.listdir(folder)):
    started = time.process_time()
    try:
        edgekit_runtime.load(os.path.join(folder, name), check="always", trust=[trust] if trust else False)
        kind = "opened"
    except BundleError as error:
        kind = type(error).__name__
    told[name] = kind, time.process_time() - started
print(json.dumps([told, memory_bytes("VmHWM") - before]))
"""


def cost_of_refusing(folder: Path, trust: str) -> tuple[dict[str, tuple[str, float]], int]:
    """Return the result and CPU seconds for each bundle of a folder, and the peak memory."""
    child = subprocess.run([sys.executable, "-c", CHILD, folder, trust], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    told, most_bytes = json.loads(child.stdout)
    return told, most_bytes


@pytest.mark.needs_cryptography
@pytest.mark.parametrize("attacks", [PLAIN, SIGNED], ids=["plain", "signed"])
def test_refusing_costs_little(
    tiny: Any, signed: dict[str, bytes], lay_out: LayOut, tmp_path: Path, trusted: Path, attacks: Any
) -> None:
    original = json.dumps(tiny.document), dict(tiny.files)
    for attack in attacks:
        tiny.document, tiny.files = json.loads(original[0]), dict(original[1])
        (tmp_path / attack.__name__).write_bytes(attack(Craft(tiny, dict(signed), lay_out)))
    told, most_bytes = cost_of_refusing(tmp_path, str(trusted) if attacks is SIGNED else "")
    assert {name: kind for name, (kind, _) in told.items()} == {
        a.__name__: kind.__name__ for a, kind in attacks.items()
    }
    assert {name: took_s for name, (_, took_s) in told.items() if took_s >= MOST_S} == {}
    assert most_bytes < MOST_BYTES
