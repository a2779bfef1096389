"""What the runtime saves by small parts of its own in place of library code: medians of many process starts.

The parts are records, SHA-256, the reader of public keys and the temporary folder. Both sides start fresh processes in
turns. In each process numpy is imported first and is not counted; nor are, for keys and folders, the modules of the
runtime that every program loads.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

DEFINE = "import edgekit_runtime; edgekit_runtime.load"
# Puts dataclasses in the place of edgekit_runtime.record, before any record is defined.
STANDARD = """
import dataclasses, types
record = types.ModuleType("edgekit_runtime.record")
record.dataclass, record.field, record.replace = dataclasses.dataclass, dataclasses.field, dataclasses.replace
record.required_fields = lambda kind: {
    field.name for field in dataclasses.fields(kind)
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
}
sys.modules["edgekit_runtime.record"] = record
"""
DIGEST = """
from {module} import sha256
sha256({argument}).update(bytes(1 << 10))
"""
LOADED = "import edgekit_runtime.errors, edgekit_runtime.host.sha256, edgekit_runtime.record"
OUR_KEY = """
from edgekit_runtime.trust.public_key import read_keys
(key,) = read_keys({pem!r}, "key.pub.pem")
assert key.verifies({signature!r}, b"message")
"""
LIBRARY_KEY = """
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
load_pem_public_key({pem!r}).verify({signature!r}, b"message", ec.ECDSA(hashes.SHA256()))
"""
FOLDER = """
from {module} import {name}
{name}().{remove}()
"""
# Name -> statements that are not measured, and statements that are.
SIDES = {
    "records by edgekit_runtime.record": ("", DEFINE),
    "records by dataclasses": ("", STANDARD + DEFINE),
    "SHA-256 of a small file by edgekit_runtime.host.sha256": (
        "",
        DIGEST.format(module="edgekit_runtime.host.sha256", argument="1 << 10"),
    ),
    "SHA-256 of a small file by hashlib": ("", DIGEST.format(module="hashlib", argument="")),
    "temporary folder by edgekit_runtime.bundle.temp_folder": (
        LOADED,
        FOLDER.format(module="edgekit_runtime.bundle.temp_folder", name="TempFolder", remove="remove"),
    ),
    "temporary folder by tempfile": (
        LOADED,
        FOLDER.format(module="tempfile", name="TemporaryDirectory", remove="cleanup"),
    ),
}
CHILD = """
import os, sys, time
import numpy
def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
{before}
before_bytes, start = resident_bytes(), time.process_time()
{statements}
spent_ms = (time.process_time() - start) * 1e3
print(spent_ms, (resident_bytes() - before_bytes) / (1 << 20))
"""


def main() -> None:
    """Print processor time and growth of resident memory for each side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=25, help="processes started for each side")
    starts = parser.parse_args().starts
    sides = {**SIDES, **_key_sides()}
    with tempfile.TemporaryDirectory() as bytecode:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}  # as installed: compiled
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for turn in range(starts + 1):
            for name, (before, statements) in sides.items():
                figures = _start(CHILD.format(before=before, statements=statements), environment)
                if turn:  # the first start compiles
                    measured[name].append(figures)
    print(f"Python {sys.version.split()[0]}")
    for name, pairs in measured.items():
        times_ms, sizes_mib = zip(*pairs, strict=True)
        low, _, high = statistics.quantiles(times_ms, n=4)
        print(
            f"{name}: {statistics.median(times_ms):.1f} ms ({low:.1f}..{high:.1f}), "
            f"{statistics.median(sizes_mib):.2f} MiB over numpy"
        )


def _key_sides() -> dict[str, tuple[str, str]]:
    """Return the sides that read a new key and verify its signature."""
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signature = private.sign(b"message", ec.ECDSA(hashes.SHA256()))
    return {
        f"read a P-256 key and verify a signature by {name}": (LOADED, statements.format(pem=pem, signature=signature))
        for name, statements in (
            ("edgekit_runtime.trust.public_key", OUR_KEY),
            ("load_pem_public_key", LIBRARY_KEY),
        )
    }


def _start(code: str, environment: dict[str, str]) -> tuple[float, float]:
    printed = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout
    spent_ms, size_mib = map(float, printed.split())
    return spent_ms, size_mib


if __name__ == "__main__":
    main()
