"""Install into file systems that are too small, each one page larger. Runs in a mount namespace.

    python full.py BUNDLES FOLDER

Prints as JSON how many were too small, and what was wrong with which.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from edgekit_runtime import open_bundle
from edgekit_runtime.errors import StoreError
from edgekit_runtime.store import install

MOST_KIB = 512


def main() -> None:
    install.free_bytes = lambda _: 1 << 40  # as when somebody else takes the room after it was looked for
    bundles, folder = Path(sys.argv[1]), Path(sys.argv[2])
    store, wrong, refused = str(folder / "store"), [], 0
    for kib in range(48, MOST_KIB, os.sysconf("SC_PAGE_SIZE") >> 10):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", folder], check=True)
        try:
            problem = install_both(bundles, store)
        finally:
            subprocess.run(["umount", folder], check=True)
        if problem is None:
            break
        refused += 1
        wrong += [f"{kib} KiB: {problem}"] if problem else []
    print(json.dumps({"refused": refused, "wrong": wrong, "fitted": problem is None}))


def install_both(bundles: Path, store: str) -> str | None:
    """Install two bundles. Return None if there was space for both, else the problem, empty if there is none."""
    done = []
    for name in ("a.edgekit", "b.edgekit"):
        try:
            with open_bundle(bundles / name) as bundle:
                done.append(install.install_bundle(bundle, store, install.InstallOptions(commit=True)).generation)
        except StoreError as error:
            if "free some space" not in str(error):
                return str(error)
            break
    else:
        return None
    if not done:
        return "" if not os.path.lexists(os.path.join(store, "current")) else "something is current"
    with open_bundle(store) as bundle:
        bundle.verify_all()
        generation = bundle.lock.generation
    return "" if [generation] == done else f"{generation} is current"


if __name__ == "__main__":
    main()
