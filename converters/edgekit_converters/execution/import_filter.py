"""Hide packages from a toolchain that imports them if it finds them, but does not need them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Make imports of these packages fail as if they were not installed; packages already loaded stay loaded."""
    hidden: dict[str, Any] = {name: None for name in names if name not in sys.modules}
    sys.modules.update(hidden)  # importing a module that is None raises ImportError
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
