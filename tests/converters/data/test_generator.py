"""Reading what the user's own function yields."""

from __future__ import annotations

import sys
from collections.abc import Callable
from textwrap import dedent

import numpy as np
import pytest

from edgekit_converters.data import labels
from edgekit_runtime.errors import DataError
from edgekit_runtime.format.manifest import InputSpec

FLAT = InputSpec("x", (1, 4), "float32")
PAIR = (FLAT, InputSpec("flag", (1, 2), "int64"))


@pytest.fixture
def code(tmp_path, monkeypatch) -> Callable[[str], str]:
    """Writes a user's file and returns the spec of its function ``samples``."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(text: str) -> str:
        (tmp_path / "mine.py").write_text("import numpy as np\n" + dedent(text))
        return f"{tmp_path / 'mine.py'}:samples"

    return write


@pytest.mark.parametrize(
    "item",
    ["row(i)", "[row(i)]", "row(i).tolist()", "{'x': row(i)}", "(row(i), i)", "(row(i)[None], np.uint8(i))"],
)
def test_one_input_in_every_form(prepared, code, item):
    spec = code(f"""
        def row(i):
            return np.arange(4.0) + i
        def samples():
            for i in range(3):
                yield {item}
        """)
    data = prepared(spec, FLAT)
    assert np.array_equal(np.load(data.inputs[0]), np.arange(4.0) + np.arange(3)[:, None])
    if item.startswith("("):
        assert list(labels(data)) == [0, 1, 2]
    else:
        assert data.labels is None


@pytest.mark.parametrize(
    ("item", "labelled"),
    [
        ("(row(i), flag)", False),
        ("{'flag': flag, 'x': row(i)}", False),
        ("((row(i), flag), i)", True),
        ("({'flag': flag[None], 'x': row(i)[None]}, i)", True),
    ],
)
def test_several_inputs_in_every_form(prepared, code, item, labelled):
    spec = code(f"""
        flag = np.array([1, 0])
        def row(i):
            return np.arange(4.0) + i
        def samples():
            return ({item} for i in range(3))
        """)
    data = prepared(spec, PAIR)
    assert np.array_equal(np.load(data.inputs[0])[2], [2, 3, 4, 5])
    assert np.array_equal(np.load(data.inputs[1]), [[1, 0]] * 3)
    assert (data.labels is not None) == labelled


def test_a_batch_of_one_is_not_a_colour_channel(prepared, code):
    spec = code("def samples():\n    return [np.arange(48.0).reshape(1, 1, 6, 8) + i for i in range(2)]")
    data = prepared(spec, InputSpec("x", (1, 1, 6, 8), "float32", "NCHW"))
    assert np.load(data.inputs[0]).shape == (2, 1, 6, 8)


def test_a_generator_without_end_is_cut(prepared, code):
    spec = code("""
        import itertools
        def samples():
            for i in itertools.count():
                yield np.full(4, i)
        """)
    data = prepared(spec, FLAT, samples=30)
    assert np.array_equal(np.load(data.inputs[0])[:, 0], np.arange(30))
    assert data.notes == ("at most the first 30 samples of samples()",)


def test_a_data_set_with_a_length_is_spread(prepared, code):
    spec = code("""
        class Rows:
            def __len__(self):
                return 1000
            def __getitem__(self, index):
                return np.full(4, index), index // 100
        samples = Rows
        """)
    data = prepared(spec, FLAT, samples=50)
    assert list(np.bincount(labels(data))) == [5] * 10
    assert data.notes == ("50 of 1000 samples taken, spread evenly over the set",)


def test_neighbours_of_the_file_can_be_imported(prepared, code, tmp_path):
    (tmp_path / "neighbour_of_mine.py").write_text("ROWS = [[1, 2, 3, 4], [5, 6, 7, 8]]")
    spec = code("""
        def samples():
            from neighbour_of_mine import ROWS
            return ROWS
        """)
    assert prepared(spec, FLAT).count == 2


def test_dataclasses_work_in_the_users_file(prepared, code):
    spec = code("""
        from dataclasses import dataclass
        @dataclass
        class Row:
            values: "list[float]"
        def samples():
            return [Row([1, 2, 3, i]).values for i in range(2)]
        """)
    assert prepared(spec, FLAT).count == 2


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("def samples():\n    yield np.zeros(4)\n    yield {}['gone']", 4, "KeyError: 'gone'"),
        ("def samples():\n    return 1 / 0", 3, "ZeroDivisionError"),
        ("raise RuntimeError('no camera')", 2, "RuntimeError: no camera"),
        ("def samples(:", 2, "SyntaxError"),
        ("import sys\nsys.exit(3)", 3, "SystemExit: 3"),
        ("def samples():\n    return np.load('gone.npy')", 3, "FileNotFoundError"),
    ],
)
def test_exceptions_name_the_users_line(prepared, code, text, line, message):
    with pytest.raises(DataError, match=rf"mine\.py:{line}: {message}"):
        prepared(code(text), FLAT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("samples = 3", "no function 'samples'"),
        ("def other(): ...", "no function 'samples'"),
        ("def samples(path): ...", "TypeError"),
        ("def samples(): return None", "TypeError"),
        ("def samples(): return []", "no samples"),
        ("def samples(): yield {'y': np.zeros(4)}", "sample 0: inputs are named y; the model's are x"),
        ("def samples(): yield np.zeros(4), 1, 2", "sample 0: 3 inputs; the model has 1: x"),
        ("def samples(): yield [[1, 2], [3]]", "sample 0: input 'x' is not an array of numbers"),
        ("def samples(): yield None", "sample 0: input 'x' is NoneType, not an array"),
        ("def samples(): yield np.zeros((8, 4))", "sample 0: the sample is 8x4, input 'x' wants 4"),
        ("def samples():\n yield np.zeros(4), 1\n yield np.ones(4)", "1 labels for 2 samples"),
        ("def samples():\n yield np.zeros(4)\n yield np.ones(4, int)", "sample 1: input 'x' is int64"),
        ("def samples():\n yield np.zeros(4)\n yield np.ones(5)", "sample 1: the sample is 5"),
    ],
)
def test_an_invalid_sample_is_refused(prepared, code, text, message):
    with pytest.raises(DataError, match=message):
        prepared(code(text), FLAT)


def test_the_function_must_be_named(prepared, code):
    with pytest.raises(DataError, match=r"name the function too; wanted FILE\.py:callable"):
        prepared(code("").removesuffix(":samples"), FLAT)
