"""Find the real models and data. A benchmark that uses generated data says so."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def folder(about: str | None) -> Path:
    """Return the folder of ``--data``, else $EDGEKIT_DATA, else ../shared/data beside the repository."""
    parser = argparse.ArgumentParser(description=about)
    beside = Path(__file__).parents[3] / "shared/data"
    parser.add_argument("--data", default=os.environ.get("EDGEKIT_DATA", beside), type=Path, help="real data")
    found: Path = parser.parse_args().data
    return found.resolve()


def need(*paths: Path) -> None:
    """End the script with a message unless all of these files exist."""
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise SystemExit(f"not measured, for want of {', '.join(missing)}: say with --data where the real data are")
