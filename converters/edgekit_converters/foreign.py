"""Foreign exceptions: the one line of a toolchain's message that tells a person something."""

from __future__ import annotations

import re

# lines that frame a message instead of being it: places in C++, section heads, rules
FRAME = re.compile(r"Exception from|Check '|FrontEnd API|Arguments received|Summary:|[-=*^~]+$")
# AutoGraph puts the user's stack before the error itself
AUTOGRAPH = re.compile(r"in user code:.*\n\s*(\w+(?:Error|Exception): [^\n]+)", re.DOTALL)


def told(error: BaseException, limit: int = 300) -> str:
    """Return ``Type: line`` with the first line of the error's message that says what happened."""
    inner = AUTOGRAPH.match(str(error))
    if inner:
        return inner.group(1)[:limit]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = next((line for line in lines if not FRAME.match(line)), lines[0] if lines else "")
    name = type(error).__name__
    return f"{name}: {telling[:limit]}" if telling else name
