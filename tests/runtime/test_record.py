"""A record behaves like a frozen dataclass, and the dataclasses module accepts it as one."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from edgekit_runtime.format.manifest import TensorBinding, Variant
from edgekit_runtime.record import dataclass, field, replace, required_fields


@dataclass(frozen=True)
class Ours:
    """Two fields with defaults, one from a factory."""

    name: str
    size: int = 3
    words: dict[str, str] = field(default_factory=dict)

    @property
    def doubled(self) -> int:
        """Twice the size."""
        return 2 * self.size


@dataclasses.dataclass(frozen=True)
class Theirs:
    """The same as a standard dataclass."""

    name: str
    size: int = 3
    words: dict[str, str] = dataclasses.field(default_factory=dict)


def test_init_eq_and_repr_equal_those_of_a_dataclass() -> None:
    one, same, other = Ours("a"), Ours(name="a", size=3), Ours("a", 4, {"b": "c"})
    assert one == same
    assert one != other
    assert one != Theirs("a")
    assert (other.name, other.size, other.words, other.doubled) == ("a", 4, {"b": "c"}, 8)
    assert repr(other) == repr(Theirs("a", 4, {"b": "c"})).replace("Theirs", "Ours")
    assert one.words is not same.words
    assert hash(TensorBinding(0, "x", "int8")) == hash(TensorBinding(0, "x", "int8"))


@pytest.mark.parametrize(
    ("result", "named"), [((), {}), (("a", 1, {}, 2), {}), (("a",), {"name": "b"}), (("a",), {"sise": 2})]
)
def test_wrong_fields_are_refused(result: tuple[object, ...], named: dict[str, object]) -> None:
    for kind in (Ours, Theirs):
        with pytest.raises(TypeError):
            kind(*result, **named)


def test_a_record_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Ours("a").size = 4  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del Ours("a").size
    assert replace(Ours("a"), size=4) == Ours("a", 4)


def test_functions_of_dataclasses_work_with_a_record() -> None:
    assert dataclasses.is_dataclass(Ours)
    assert dataclasses.asdict(Ours("a", words={"b": "c"})) == {"name": "a", "size": 3, "words": {"b": "c"}}
    assert dataclasses.replace(Ours("a"), size=4) == Ours("a", 4)
    ours, theirs = dataclasses.fields(Ours), dataclasses.fields(Theirs)
    assert [(f.name, f.default, f.default_factory) for f in ours] == [
        (f.name, f.default, f.default_factory) for f in theirs
    ]
    assert required_fields(Ours) == {"name"}


def test_it_is_copied_and_pickled() -> None:
    binding = TensorBinding(1, "x", "int8", 0.5, 3)
    assert pickle.loads(pickle.dumps(binding)) == binding == copy.deepcopy(binding)
    assert required_fields(Variant) >= {"name", "engine", "golden"}
