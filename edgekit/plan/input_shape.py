"""Input shapes as users type them."""

from __future__ import annotations

from edgekit_converters.records import InputShape
from edgekit_runtime.errors import PlanError

DTYPES = ("float32", "float16", "int64", "int32", "int8", "uint8", "bool")


def parse_input_shape(text: str) -> InputShape:
    """Read ``[NAME=]1,3,32,32[:int64]``.

    Raises:
        PlanError: the text has another form, or the batch is not 1.
    """
    name, _, rest = text.rpartition("=")
    numbers, _, dtype = rest.partition(":")
    try:
        shape = tuple(int(number) for number in numbers.replace("x", ",").split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise PlanError(f"--input-shape {text!r}: expected 1,3,224,224 or image=1,3,224,224 or ids=1,128:int64")
    if shape[0] != 1:
        raise PlanError(f"--input-shape {text!r}: the first dimension is the batch, and must be 1")
    if dtype not in ("", *DTYPES):
        raise PlanError(f"--input-shape {text!r}: unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    return InputShape(shape, name or None, dtype or None)
