"""Measure the size of a delta when only the head of an int8 MobileNetV2 changed, and the time to apply and install it.

The head of 1000 classes is a third of the weights; trained from scratch, it cannot be sent in less than its entropy.
The target is therefore for a head of 100 classes, as users train one; the others are printed without a target.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.conversion.convert_memory import SCALE, generated_images
from benchmarks.harness import figures
from benchmarks.harness.commands import MODELS, convert
from edgekit.bundle.delta import make_delta
from edgekit_runtime import open_bundle
from edgekit_runtime.store.delta.apply import open_delta
from edgekit_runtime.store.install import InstallOptions, install_bundle, install_from

IMAGES, TURNS, CHUNK_BYTES = 20, 15, 1 << 20
CHANGES = {  # label: old head, new head, target
    "head of 100 classes, trained from scratch": ("of_100_classes", "of_100_classes_replaced_head", 0.07),
    "head of 1000 classes, fine-tuned": ("mobilenet_v2", "fine_tuned_head", None),
    "head of 1000 classes, trained from scratch": ("mobilenet_v2", "replaced_head", None),
}
AT_ONCE = InstallOptions(commit=True, allow_downgrade=True, any_board=True)


def main() -> None:
    """Print sizes, then times, both sides in turns."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        np.save(work / "images.npy", generated_images(IMAGES))
        for label, (old, new, limit) in CHANGES.items():
            report = make_delta(_bundle(work, old), _bundle(work, new), work / f"{new}.delta")
            measured = f"{report.share:.2%} of {report.bundle_bytes / 1e6:.2f} MB"
            target = "" if limit is None else f"<= {limit:.0%}"
            figures.show(label, measured, target, holds=None if limit is None else report.share <= limit)
        _times(work, *CHANGES["head of 100 classes, trained from scratch"][:2])


def _bundle(work: Path, name: str) -> Path:
    bundle = work / f"{name}.edgekit"
    if not bundle.exists():
        model = f"{MODELS / 'mobilenet_v2.py'}:{name}"
        flags = (
            "-q",
            "int8-static",
            "-d",
            "raspberry-pi-5",
            "--calibrate",
            "images.npy",
            *SCALE,
            "--name",
            "mobilenet",
        )
        os.replace(convert(work, work, model, *flags).bundle, bundle)
    return bundle


def _times(work: Path, old: str, new: str) -> None:
    before, after, delta = work / f"{old}.edgekit", work / f"{new}.edgekit", work / f"{new}.delta"
    store = str(work / "store")
    install_from(before, None, store, AT_ONCE)
    full_install, _ = install_from(after, None, str(work / "other"), AT_ONCE)
    share = full_install.written_bytes / after.stat().st_size
    figures.show("install writes, over the bundle's bytes", f"{share:.4f}", "<= 1.02", holds=share <= 1.02)
    copied, applied, sent, full = [], [], [], []
    for _ in range(TURNS + 1):
        copied.append(_seconds(lambda: _copy(after, work / "copy")))
        applied.append(_seconds(lambda: _apply(delta, store, work / "applied")))
        sent.append(_seconds(lambda: install_from(delta, None, store, AT_ONCE)))
        _forget(store, before)
        full.append(_seconds(lambda: install_from(after, None, store, AT_ONCE)))
        _forget(store, before)
    texts = [f"{1000 * np.median(times[1:]):.1f} ms" for times in (copied, applied, sent, full)]
    ratios = np.divide(applied[1:], copied[1:])
    figures.show_at_most("applying a delta, over a copy of the bundle", list(ratios), 3)
    figures.show("  copy, apply", ", ".join(texts[:2]))
    figures.show("installing the delta, the bundle", ", ".join(texts[2:]))


def _seconds(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def _copy(source: Path, target: Path) -> None:
    """Copy a file and flush it to disk."""
    with source.open("rb") as reader, target.open("wb") as writer:
        while piece := reader.read(CHUNK_BYTES):
            writer.write(piece)
        writer.flush()
        os.fsync(writer.fileno())


def _apply(delta: Path, store: str, target: Path) -> None:
    """Build all files of the new bundle, verify their digests, and flush them to disk as one file."""
    with open_delta(delta, store) as opened, target.open("wb") as writer:
        for content in opened.unlisted().values():
            writer.write(content)
        for record in opened.manifest.files:
            opened.copy(record.path, writer.write)
        writer.flush()
        os.fsync(writer.fileno())


def _forget(store: str, before: Path) -> None:
    """Restore the store with the old bundle only."""
    from edgekit_runtime.store.prune import prune

    with open_bundle(before) as bundle:
        install_bundle(bundle, store, AT_ONCE)
    prune(store, 1)


if __name__ == "__main__":
    main()
