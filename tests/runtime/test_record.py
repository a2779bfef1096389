"""A record behaves as a frozen dataclass does, and the dataclasses module takes it for one."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from edgekit_runtime.format.manifest import TensorBinding, Variant
from edgekit_runtime.record import dataclass, field, replace, required_fields


@dataclass(frozen=True)
class Ours:
    """Two fields with defaults, one of them made anew."""

    name: str
    size: int = 3
    words: dict[str, str] = field(default_factory=dict)

    @property
    def doubled(self) -> int:
        """Twice the size."""
        return 2 * self.size


@dataclasses.dataclass(frozen=True)
class Theirs:
    """The same, as the standard library makes it."""

    name: str
    size: int = 3
    words: dict[str, str] = dataclasses.field(default_factory=dict)


def test_it_is_made_compared_and_shown_as_a_dataclass() -> None:
    one, same, other = Ours("a"), Ours(name="a", size=3), Ours("a", 4, {"b": "c"})
    assert one == same
    assert one != other
    assert one != Theirs("a")
    assert (other.name, other.size, other.words, other.doubled) == ("a", 4, {"b": "c"}, 8)
    assert repr(other) == repr(Theirs("a", 4, {"b": "c"})).replace("Theirs", "Ours")
    assert one.words is not same.words
    assert hash(TensorBinding(0, "x", "int8")) == hash(TensorBinding(0, "x", "int8"))


@pytest.mark.parametrize(
    ("given", "named"), [((), {}), (("a", 1, {}, 2), {}), (("a",), {"name": "b"}), (("a",), {"sise": 2})]
)
def test_wrong_fields_are_refused(given: tuple[object, ...], named: dict[str, object]) -> None:
    for kind in (Ours, Theirs):
        with pytest.raises(TypeError):
            kind(*given, **named)


def test_it_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Ours("a").size = 4  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del Ours("a").size
    assert replace(Ours("a"), size=4) == Ours("a", 4)


def test_the_dataclasses_module_knows_it() -> None:
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
