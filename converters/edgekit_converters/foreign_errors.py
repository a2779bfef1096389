"""Shorten a toolchain's exception to the one line that says what happened."""

from __future__ import annotations

import re

# lines around the message: positions in C++, the layer that Keras called, section heads, rules
FRAME = re.compile(
    r"Exception from|Exception encountered when calling|Check '|FrontEnd API|Arguments received|Summary:|[-=*^~]+$"
)
# AutoGraph puts the user's stack before the error itself
AUTOGRAPH = re.compile(r"in user code:.*\n\s*(\w+(?:Error|Exception)): ([^\n]+.*)", re.DOTALL)
STYLE = re.compile("\x1b\\[[0-9;]*m")  # Keras writes in bold


def short_message(error: BaseException, limit: int = 300) -> str:
    """Return ``Type: line`` with the first line of the error's message that says what happened."""
    name, text = type(error).__name__, STYLE.sub("", str(error))
    inner = AUTOGRAPH.match(text)
    if inner:
        name, text = inner.groups()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = next((line for line in lines if not FRAME.match(line)), lines[0] if lines else "")
    return f"{name}: {telling[:limit]}" if telling else name
