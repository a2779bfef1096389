"""Of a toolchain's pages, the line that tells something."""

import pytest

from edgekit_converters.foreign_errors import short_message

OPENVINO = """Exception from src/inference/src/cpp/core.cpp:84:
Check 'false' failed at src/frontends/common/src/frontend.cpp:54:
FrontEnd API failed with GeneralFailure:
the graph has a cycle
"""
AUTOGRAPH = """in user code:

    File "model.py", line 7, in call  *
        return x + y

    ValueError: Missing data for input "left".

    Arguments received: ...
"""
KERAS = """Exception encountered when calling Lookup.call().

\x1b[1mthe table has no row 3\x1b[0m

Arguments received by Lookup.call():
  • x=tf.Tensor(shape=(1, 4), dtype=float32)"""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError(OPENVINO), "RuntimeError: the graph has a cycle"),
        (ValueError(AUTOGRAPH), 'ValueError: Missing data for input "left".'),
        (ValueError(KERAS), "ValueError: the table has no row 3"),
        (ValueError(f"in user code:\n\n    File 7\n\n    TypeError: {KERAS}"), "TypeError: the table has no row 3"),
        (KeyError("\n\n  spaced  \nmore"), "KeyError: '\\n\\n  spaced  \\nmore'"),
        (RuntimeError("Exception from a.cpp:1:"), "RuntimeError: Exception from a.cpp:1:"),
        (NotImplementedError(), "NotImplementedError"),
    ],
)
def test_the_telling_line(error, line):
    assert short_message(error) == line


def test_a_line_without_end_is_cut():
    assert short_message(RuntimeError("x" * 5000)) == "RuntimeError: " + "x" * 300
