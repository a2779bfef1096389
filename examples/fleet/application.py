"""An application that keeps running while its model is updated: application.py STORE. It reads .npy paths from stdin.

It loads the current generation of the store. Before each sample it checks, with one system call, whether another
generation is current. After each result it sends a heartbeat, which counts for a generation on trial.
"""

from __future__ import annotations

import sys

import numpy as np

from edgekit_runtime import load
from edgekit_runtime.errors import EdgekitError, StoreError


def main(store: str) -> None:
    """Print the model output for every line of standard input."""
    with load(store) as model:
        for line in sys.stdin:
            try:
                if model.reload_if_changed():
                    print(f"now runs {model.manifest.model_name} {model.manifest.model_version}", file=sys.stderr)
            except EdgekitError as error:  # the new generation cannot run here: the old one continues
                print(f"stays with {model.manifest.model_version}: {error}", file=sys.stderr)
            output = model(np.load(line.strip()))
            print(np.asarray(output).tolist(), flush=True)
            try:
                model.heartbeat()
            except StoreError as error:  # no write permission, or the disk is full: the output is still valid
                print(f"no heartbeat: {error}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1])
