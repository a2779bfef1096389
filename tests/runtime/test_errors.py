"""The tree in the docstring of errors.py matches the classes."""

from __future__ import annotations

import pickle
import re

import pytest

from edgekit_runtime import errors

FAMILIES = [line for line in (errors.__doc__ or "").splitlines() if re.search(r"──", line)]


def drawn() -> list[tuple[str, str, int | None]]:
    """Return (class, parent, exit code if given) of each line of the tree."""
    found, family = [], ""
    for line in FAMILIES:
        name = re.search(r"── (\w+)", line).group(1)
        code = re.search(r"exit (\d)", line)
        top = line.startswith(("├", "└"))
        found.append((name, "EdgekitError" if top else family, int(code.group(1)) if code else None))
        family = name if top else family
    return found


@pytest.mark.parametrize(("name", "parent", "code"), drawn())
def test_each_line_of_the_picture_is_a_class(name: str, parent: str, code: int | None) -> None:
    kind = getattr(errors, name)
    assert [base.__name__ for base in kind.__bases__] == [parent]
    assert code is None or kind.exit_code == code


def test_each_class_is_in_the_picture() -> None:
    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert classes == {name for name, _, _ in drawn()} | {"EdgekitError"}


def test_a_conversion_error_is_pickled_completely() -> None:
    error = errors.UnsupportedOperator("no Foo", stage="lower", subject="layer 3", advice="replace it")
    other = pickle.loads(pickle.dumps(error))
    assert (type(other), str(other)) == (errors.UnsupportedOperator, "lower (layer 3): no Foo\nreplace it")
