"""Fuzz the bundle reader: it must open each input or refuse it with a BundleError.

    python tests/attacks/fuzz.py --inputs 1000000 --jobs 2

Each input is made from a sound one by a few random changes, and from nothing but the seed and its number: what goes
wrong is told with both, and ``--first NUMBER --inputs 1`` makes it again.
"""

from __future__ import annotations

import argparse
import base64
import copy
import hashlib
import io
import json
import multiprocessing
import struct
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from edgekit_runtime import open_bundle
from edgekit_runtime.errors import BundleError
from edgekit_runtime.format import npy
from edgekit_runtime.format.archive import Entry, directory, local_header
from edgekit_runtime.format.manifest_json import parse_manifest
from edgekit_runtime.trust import signature

NUMBERS = (0, 1, -1, 2, 8, 24, 63, 64, 127, 128, 255, 256, 1024, 1026, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64)
TOKENS = (
    *(b"NaN", b"-Infinity", b"1e999", b"1E-999", b"-0", b"9" * 25, b"null", b"true", b'""', b"{}", b"[]", b"\\ud800"),
    *(b"[" * 40, b'{"a":' * 40, b'"', b"\\", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"../", b"/", b"C:\\", b"."),
    *(b"PK\3\4", b"PK\1\2", b"PK\5\6", b"\x93NUMPY", b"manifest.json", b"model.sig"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, "", " ", "a", "A" * 300, "é" * 200, "../x", "/x", "x/", "a/b/c/d/e/f/g/h/i"),
    *("\u0000", "\u202e", "manifest.json", "model.sig", "float32", "int8", "NHWC", "sha256"),
    *([], {}, [[]], [None], {"a": None}, [{}] * 70, 0.0, -0.5, 1e-320, 1.7e308, 0.1, *NUMBERS),
)


def array(values: Any) -> bytes:
    """Return an array as the bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, np.asarray(values))
    return file.getvalue()


FILES = {
    "golden/x.npy": array(np.zeros((1, 1, 2, 2, 3), np.float32)),
    "golden/y.npy": array(np.zeros((1, 1, 4), np.float32)),
    "labels.txt": b"north\neast\nsouth\nwest\n",
    "variants/v/weights.npy": array(np.ones((2, 2, 3, 4), np.float32)),
}


def document() -> dict[str, Any]:
    """Return a valid manifest with nearly every key."""
    quantized = {"index": 0, "name": "y", "dtype": "int8", "scale": 0.5, "zero_point": 3}
    part = {"index": 1, "name": "p", "dtype": "uint8", "scale": 0.25, "zero_point": 0}
    plain = {"index": 0, "name": "x", "dtype": "float32"}
    golden = {"outputs": ["golden/y.npy"], "max_abs": [0.5]}
    shared = {"device": "cpu", "files": ["variants/v/weights.npy"], "inputs": [plain], "golden": golden}
    joined = {"axis": 1, "parts": [quantized, part]}
    return {
        "format_version": 1,
        "model": {"name": "quarters", "version": "1.0"},
        "inputs": [
            {
                **{"name": "image", "shape": [1, 2, 2, 3], "dtype": "float32", "layout": "NHWC"},
                "preprocessing": {"resize": [2, 2], "scale": 0.5, "mean": [0.1, 0.2, 0.3], "std": [0.5]},
            }
        ],
        "outputs": [{"name": "scores", "shape": [1, 4], "dtype": "float32", "labels": "labels.txt"}],
        "postprocessing": {"scores": "scores", "activation": "softmax", "threshold": 0.1, "top": 3},
        "variants": [
            {"name": "v", "engine": "null", "scheme": "float32", "outputs": [plain], **shared},
            {
                **{"name": "w", "engine": "litert", "scheme": "int8-static", "outputs": [joined], **shared},
                "golden": {**golden, "max_abs": [[0.5, 0.25]]},
                "delegate": "edgetpu",
                "requirements": {"arch": ["aarch64"], "engine_version": "2.14", "memory_bytes": 1 << 26},
                "accuracy": {"value": 0.97, "drop": 0.01, "samples": 400},
                "settings": {"device": "usb"},
            },
        ],
        "files": [
            {"path": path, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for path, data in FILES.items()
        ],
        "golden_inputs": ["golden/x.npy"],
        "devices": [{"name": "raspberry-pi-5", "arch": "aarch64", "variants": ["v"], "more": {"cores": 4}}],
        "recipe": {"schemes": ["int8-static"]},
        "calibration": {"samples": 200},
        "versions": {"edgekit": "0.1.0"},
    }


def statement() -> dict[str, Any]:
    """Return a valid statement of a signature."""
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()}
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests.values())).hexdigest()
    resources = [{"name": path, "algorithm": "sha256", "digest": digest} for path, digest in digests.items()]
    return {
        "_type": signature.STATEMENT_TYPE,
        "subject": [{"name": "quarters", "digest": {"sha256": root}}],
        "predicateType": signature.PREDICATE_TYPE,
        "predicate": {"serialization": dict(signature.METHOD), "resources": resources},
    }


def envelope() -> dict[str, Any]:
    """Return a valid envelope with two invalid signatures."""
    payload = base64.b64encode(json.dumps(statement()).encode()).decode()
    signatures = [{"sig": "c2ln", "keyid": ""}, {"sig": "AAAA", "keyid": "ab" * 32}]
    return {
        "mediaType": signature.MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": "cd" * 32}, "tlogEntries": []},
        "dsseEnvelope": {"payload": payload, "payloadType": signature.PAYLOAD_TYPE, "signatures": signatures},
    }


def archive_bytes(files: dict[str, bytes]) -> bytes:
    """Return an archive of files, with their checksums."""
    entries: list[Entry] = []
    data = bytearray()
    for path, content in files.items():
        entries.append(Entry(path, len(content), zlib.crc32(content), len(data)))
        data += local_header(entries[-1]) + content
    return bytes(data + directory(entries))


# Changing what is sound. -----------------------------------------------------------------------------


def changed_bytes(random: Random, data: bytes) -> bytes:
    """Apply one to four changes: bits, bytes, numbers, ranges, tokens, truncation."""
    out = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(out)) if out else 0
        other = random.randrange(len(out)) if out else 0
        kind = random.randrange(7)
        if kind == 0 and out:
            out[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            out[at : at + 1] = bytes([random.randrange(256)])
        elif kind == 2:
            width, form = random.choice(((2, "<H"), (4, "<I")))
            out[at : at + width] = struct.pack(form, random.choice(NUMBERS) % (1 << (8 * width)))
        elif kind == 3:
            del out[at : at + random.choice((1, 2, 8, 64, 1024))]
        elif kind == 4:
            out[at:at] = out[other : other + random.choice((1, 4, 30, 46, 200))]
        elif kind == 5:
            out[at:at] = random.choice(TOKENS)
        else:
            del out[at:]
    return bytes(out)


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (container, key) of a document."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from nodes(value[key])


def changed_document(random: Random, sound: bytes) -> bytes:
    """Change one to three values: replace, remove, repeat or copy them."""
    out = json.loads(sound)
    for _ in range(random.randint(1, 3)):
        places = list(nodes(out))
        if not places:
            break
        holder, key = random.choice(places)
        kind = random.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            other, name = random.choice(places)
            holder[key] = copy.deepcopy(other[name] if other is not holder else random.choice(VALUES))
        elif kind == 2 and isinstance(holder, dict):
            holder[str(random.choice(VALUES))] = holder[key]
        elif kind == 3 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        else:
            holder[key] = copy.deepcopy(random.choice(VALUES))
    return json.dumps(out, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")


def changed_json(random: Random, sound: bytes) -> bytes:
    """Change a document, its bytes, or both."""
    kind = random.randrange(3)
    data = changed_document(random, sound) if kind else sound
    return changed_bytes(random, data) if kind != 1 else data


# What is read. ---------------------------------------------------------------------------------------

MANIFEST, STATEMENT, ENVELOPE = (json.dumps(sound).encode() for sound in (document(), statement(), envelope()))
SOUND = {"manifest.json": MANIFEST, **FILES}
ARCHIVE = archive_bytes(SOUND)


def open_and_hold(path: Path, data: bytes) -> None:
    """Open an archive, check all digests and view its arrays."""
    path.write_bytes(data)
    with open_bundle(path, trust=False) as bundle:
        for name in bundle.manifest.golden_inputs:
            bundle.array(name)
        bundle.verify_all()


def read_manifest(random: Random, _: Path) -> None:
    """Read a changed manifest."""
    parse_manifest(changed_json(random, MANIFEST))


def read_archive(random: Random, path: Path) -> None:
    """Read an archive with changed bytes."""
    open_and_hold(path, changed_bytes(random, ARCHIVE))


def read_files(random: Random, path: Path) -> None:
    """Read a valid archive of changed files: manifests, contents, names."""
    files = {
        **SOUND,
        "manifest.json": changed_json(random, MANIFEST) if random.random() < 0.5 else SOUND["manifest.json"],
    }
    name = random.choice(list(files))
    if random.random() < 0.5:
        files[name] = changed_bytes(random, files[name])
    if random.random() < 0.3:
        files[random.choice(("model.sig", "x", "../x", "a/" * 100 + "b", "MANIFEST.JSON", "labels.txt/x"))] = b"x"
    open_and_hold(path, archive_bytes(files))


def read_signature(random: Random, _: Path) -> None:
    """Read a changed envelope and its statement."""
    if random.random() < 0.5:
        signature.statement_digests(changed_json(random, STATEMENT))
    else:
        found = signature.read_envelope(changed_json(random, ENVELOPE))
        signature.statement_digests(found.payload)


def read_array(random: Random, _: Path) -> None:
    """Read a changed array with a correct digest."""
    data = changed_bytes(random, FILES[random.choice(["golden/x.npy", "golden/y.npy"])])
    npy.view(np.frombuffer(data, np.uint8), "x.npy")


READERS: tuple[Callable[[Random, Path], None], ...] = (
    read_manifest,
    read_archive,
    read_files,
    read_signature,
    read_array,
)


def feed(first: int, inputs: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Read a number of inputs, count the results and report every unexpected exception."""
    ended: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(first, first + inputs):
        random = Random(f"{seed}/{number}")
        reader = READERS[number % len(READERS)]
        try:
            reader(random, folder / "fuzzed.edgekit")
            ended["opened"] += 1
        except BundleError as error:
            ended[type(error).__name__] += 1
        except Exception:  # noqa: BLE001  # to find these is what this is for
            wrong.append(f"{reader.__name__}, --seed {seed} --first {number} --inputs 1:\n{traceback.format_exc()}")
    return ended, wrong


def _share(work: tuple[int, int, int]) -> tuple[Counter[str], list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        return feed(*work, Path(folder))


def main() -> None:
    """Run the fuzzer; exit with 1 after an unexpected exception."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    asked = parser.parse_args()
    started, step = time.monotonic(), 5_000
    starts = range(asked.first, asked.first + asked.inputs, step)
    work = [(start, min(step, asked.first + asked.inputs - start), asked.seed) for start in starts]
    ended: Counter[str] = Counter()
    wrong: list[str] = []
    with multiprocessing.get_context("spawn").Pool(asked.jobs) as pool:
        for counted, told in pool.imap_unordered(_share, work):
            ended += counted
            wrong += told
    print(
        f"{asked.inputs} inputs in {time.monotonic() - started:.0f} s:",
        dict(ended.most_common()),
        f"wrong: {len(wrong)}",
    )
    if wrong:
        raise SystemExit("\n".join(wrong[:10]))


if __name__ == "__main__":
    main()
