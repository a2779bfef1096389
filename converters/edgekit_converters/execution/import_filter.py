"""What a toolchain imports: not every package that it finds is one that a conversion uses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Let who imports these packages find that they are not installed; those that are loaded already stay."""
    hidden: dict[str, Any] = {name: None for name in names if name not in sys.modules}
    sys.modules.update(hidden)  # whoever imports None gets an ImportError
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
