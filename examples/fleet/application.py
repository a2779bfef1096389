"""An application that goes on while its model is updated: application.py STORE, with one sample as a .npy a line.

It opens what is current in the store. Before each sample it asks, at the cost of one system call, whether another
generation is; once the model has answered, it tells the store so, which keeps a generation that is on trial.
"""

from __future__ import annotations

import sys

import numpy as np

from edgekit_runtime import load
from edgekit_runtime.errors import EdgekitError, StoreError


def main(store: str) -> None:
    """Answer every line of standard input."""
    with load(store) as model:
        for line in sys.stdin:
            try:
                if model.reload_if_changed():
                    print(f"now runs {model.manifest.model_name} {model.manifest.model_version}", file=sys.stderr)
            except EdgekitError as error:  # the new generation cannot run here: the old one goes on
                print(f"stays with {model.manifest.model_version}: {error}", file=sys.stderr)
            answer = model(np.load(line.strip()))
            print(np.asarray(answer).tolist(), flush=True)
            try:
                model.heartbeat()
            except StoreError as error:  # this user may not write there, or the disk is full: the answer stands
                print(f"no heartbeat: {error}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1])
