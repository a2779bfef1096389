"""Device profiles: what a board is, read from one flat TOML file (docs/adding-a-device.md)."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from edgekit_converters.formats import FORMATS, engines_for_scheme, format_of
from edgekit_converters.recipe.schemes import SCHEMES
from edgekit_runtime.engines.delegates import DELEGATES
from edgekit_runtime.errors import ProfileError
from edgekit_runtime.placement.candidates import unsupported

ARCHS = ("aarch64", "armv7l", "x86_64")  # as platform.machine() says on Linux
ACCELERATORS = ("edgetpu",)
PRECISIONS = ("f32", "f16", "bf16")
VERIFIED = ("hardware", "emulated", "no")


def all_targets() -> tuple[str, ...]:
    """Return every "engine:device" that an artifact can be made for."""
    return tuple(f"{engine}:{device}" for engine in FORMATS for device in format_of(engine).devices)


@dataclass(frozen=True)
class DeviceProfile:
    """What edgekit knows of a board. `docs/adding-a-device.md` explains each field."""

    name: str
    title: str
    arch: str  # one of ARCHS
    targets: tuple[str, ...]  # of all_targets(), in order of preference
    schemes: tuple[str, ...]  # keys of SCHEMES that are allowed, in order of preference
    precision: str  # what the engine is pinned to for float arithmetic, one of PRECISIONS
    verified: str  # whether anybody has run it, one of VERIFIED
    source: dict[str, str] = field(hash=False)  # fact -> URL or document
    cores: int | None = None  # none where the profile stands for many machines
    memory_mib: int | None = None  # likewise; of the smallest model sold
    accelerator: str | None = None  # one of ACCELERATORS
    delegates: dict[str, str] = field(default_factory=dict, hash=False)  # target -> name of the delegate that runs it

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as JSON-able data for the manifest; what is not known is left out."""
        pairs = ((key.name, getattr(self, key.name)) for key in fields(self))
        return {
            name: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, dict) else value
            for name, value in pairs
            if value is not None and value != {}
        }


@dataclass(frozen=True)
class _Key:
    """What a key of a profile may hold."""

    allowed: str  # for people
    holds: Callable[[Any], bool]
    required: bool = True


def _one_of(words: tuple[str, ...], *, required: bool = True) -> _Key:
    def holds(value: Any) -> bool:
        return isinstance(value, str) and value in words

    return _Key(f"one of {', '.join(words)}", holds, required)


def _some_of(words: Callable[[], tuple[str, ...]]) -> _Key:
    def holds(value: Any) -> bool:
        if not (isinstance(value, list) and value and all(isinstance(word, str) for word in value)):
            return False
        return set(value) <= set(words()) and len(set(value)) == len(value)

    return _Key(f"a list, the preferred first and none twice, of {', '.join(words())}", holds)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[a-z0-9]+([._-][a-z0-9]+)*", value) is not None


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0  # a TOML boolean is an int to Python


def _is_delegates(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(name in DELEGATES for name in value.values())


def _is_source(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(_is_text(text) for text in value.values())


KEYS = {
    "name": _Key("the file's own name without .toml: small letters, digits, dots and dashes", _is_name),
    "title": _Key("a line of text for people", _is_text),
    "arch": _one_of(ARCHS),
    "targets": _some_of(all_targets),
    "schemes": _some_of(lambda: tuple(SCHEMES)),
    "precision": _one_of(PRECISIONS),
    "verified": _one_of(VERIFIED),
    "source": _Key("a table that says of each fact where it comes from, with one entry or more", _is_source),
    "cores": _Key("a whole number above 0", _is_count, required=False),
    "memory_mib": _Key("a whole number above 0", _is_count, required=False),
    "accelerator": _one_of(ACCELERATORS, required=False),
    "delegates": _Key(f"a table, target = one of {', '.join(DELEGATES)}", _is_delegates, required=False),
}


def profile_names() -> tuple[str, ...]:
    """Return the names of the profiles that come with edgekit, sorted."""
    return tuple(sorted(name.removesuffix(".toml") for name in _table()))


def load_profile(name_or_path: str | Path) -> DeviceProfile:
    """Return the profile of a board.

    Args:
        name_or_path: a name that comes with edgekit, or the path of one's own TOML file. Whatever ends in
            ``.toml`` is a path.

    Raises:
        ProfileError: the name is unknown, or the file cannot be read or breaks a rule.
    """
    if str(name_or_path).endswith(".toml"):
        return _read(Path(name_or_path))
    table = _table()
    if f"{name_or_path}.toml" not in table:
        raise ProfileError(_unknown(str(name_or_path)))
    return _read(table[f"{name_or_path}.toml"])


def _table() -> dict[str, Traversable]:
    """Return the files that come with edgekit, by file name."""
    files = resources.files("edgekit_devices").iterdir()
    return {file.name: file for file in files if file.name.endswith(".toml")}


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, profile_names(), n=3, cutoff=0.5)
    guess = f"did you mean {' or '.join(near)}? " if near else "".join(f"{why}. " for why in unsupported(name))
    return (
        f"unknown device {name!r}; {guess}known: {', '.join(profile_names())}.\n"
        "For another board copy the nearest profile, change it, and give its path: --device ./my-board.toml "
        "(see docs/adding-a-device.md)"
    )


def _read(file: Traversable) -> DeviceProfile:
    """Read and check one file. `file` is a path, or an entry of the installed package."""
    try:
        data = tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        raise ProfileError(f"device profile {file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"device profile {file} is not TOML: {error}") from error
    _check(data, file)
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
    return DeviceProfile(**values)


def _check(data: dict[str, Any], file: Traversable) -> None:
    unknown = [key for key in data if key not in KEYS]
    if unknown:
        raise ProfileError(f"device profile {file}: unknown key {unknown[0]!r}; known: {', '.join(KEYS)}")
    for name, key in KEYS.items():
        if name not in data:
            if key.required:
                raise ProfileError(f"device profile {file}: {name} is missing; it must be {key.allowed}")
        elif not key.holds(data[name]):
            raise ProfileError(f"device profile {file}: {name} is {data[name]!r}; it must be {key.allowed}")
    if data["name"] != file.name.removesuffix(".toml"):
        raise ProfileError(f"device profile {file}: name is {data['name']!r}; it must be the file's own name")
    engines = {target.partition(":")[0] for target in data["targets"]}
    for scheme in data["schemes"]:
        if not engines & set(engines_for_scheme(scheme)):
            raise ProfileError(
                f"device profile {file}: schemes has {scheme!r}, which no engine of targets can hold; "
                f"it needs one of {', '.join(engines_for_scheme(scheme))}"
            )
    _check_delegates(data.get("delegates", {}), data["targets"], file)


def _check_delegates(delegates: dict[str, str], targets: list[str], file: Traversable) -> None:
    able = [target for target in targets if format_of(target.partition(":")[0]).takes_delegates]
    for target in delegates:
        if target not in able:
            raise ProfileError(
                f"device profile {file}: delegates has {target!r}, which is no target that a delegate can run; "
                f"name one of {', '.join(able) or 'the litert targets, after adding it to targets'}"
            )
