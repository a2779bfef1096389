"""Device profiles: facts about a board, from a flat TOML file (docs/adding-a-device.md)."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass, field, fields
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from edgekit.plan.option_declaration import Count, Declaration, Option, declarations, near_names
from edgekit_converters.formats import FORMATS, engines_for_scheme, format_of
from edgekit_converters.recipe.schemes import SCHEMES
from edgekit_runtime.engines.delegates import DELEGATES
from edgekit_runtime.errors import PlanError, ProfileError
from edgekit_runtime.placement.candidates import unsupported

ARCHS = ("aarch64", "armv7l", "x86_64")  # values of platform.machine() on Linux
ACCELERATORS = ("edgetpu",)
PRECISIONS = ("f32", "f16", "bf16")
VERIFIED = ("hardware", "emulated", "no")
Text = Annotated[str, Meta(pattern=r"\S")]


def all_targets() -> tuple[str, ...]:
    """Return every "engine:device" that an artifact can be made for."""
    return tuple(f"{engine}:{device}" for engine in FORMATS for device in format_of(engine).devices)


@dataclass(frozen=True)
class DeviceProfile:
    """A board. `docs/adding-a-device.md` explains each field."""

    name: Annotated[
        Annotated[str, Meta(pattern=r"^[a-z0-9]+([._-][a-z0-9]+)*$")],
        Option("Name", accepts="the file's own name without .toml: small letters, digits, dots and dashes"),
    ]
    title: Annotated[Text, Option("Title", accepts="a line of text for people")]
    arch: Annotated[str, Option("Value of platform.machine()", choices=ARCHS)]
    targets: Annotated[tuple[str, ...], Option("Of all_targets(), in order of preference")]
    schemes: Annotated[tuple[str, ...], Option("Schemes that are allowed, in order of preference")]
    precision: Annotated[str, Option("Float arithmetic that the engine is pinned to", choices=PRECISIONS)]
    verified: Annotated[str, Option("Whether anybody has run it", choices=VERIFIED)]
    source: Annotated[
        Annotated[dict[str, Text], Meta(min_length=1)],
        Option("Fact -> URL or document", accepts="a table with the source of each fact, with one entry or more"),
    ] = field(hash=False)
    cores: Annotated[Count | None, Option("Cores; not of profiles that stand for many machines")] = None
    memory_mib: Annotated[Count | None, Option("Memory of the smallest model sold")] = None
    accelerator: Annotated[str | None, Option("Accelerator on the board", choices=ACCELERATORS)] = None
    delegates: Annotated[
        Annotated[dict[str, str], Meta(min_length=1)],
        Option("Target -> delegate that runs it", accepts=f"a table, target = one of {', '.join(DELEGATES)}"),
    ] = field(default_factory=dict, hash=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as JSON-able data for the manifest, without unknown facts."""
        pairs = ((key.name, getattr(self, key.name)) for key in fields(self))
        return {
            name: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, dict) else value
            for name, value in pairs
            if value is not None and value != {}
        }


def profile_names() -> tuple[str, ...]:
    """Return the names of the shipped profiles, sorted."""
    return tuple(sorted(name.removesuffix(".toml") for name in _table()))


def load_profile(name_or_path: str | Path) -> DeviceProfile:
    """Return the profile of a board.

    Args:
        name_or_path: name of a shipped profile, or path of a TOML file. A name that ends in ``.toml`` is a path.

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
    """Return the shipped files by name."""
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
    profile = DeviceProfile(**_values(data, file))
    _check(profile, file)
    return profile


def _values(data: dict[str, Any], file: Traversable) -> dict[str, Any]:
    """Check the keys of a file, each by itself."""
    known = {key.name: key for key in declarations(DeviceProfile)}
    for name in data:
        if name not in known:
            raise ProfileError(f"device profile {file}: unknown key {name!r}; {near_names(name, known)}")
    for name, key in known.items():
        if name not in data and key.required:
            raise ProfileError(f"device profile {file}: {name} is missing; it must be {_accepts(key)}")
    values = {}
    for name, value in data.items():
        try:
            if known[name].repeatable and not isinstance(value, list):
                raise PlanError("not a list")
            values[name] = known[name].check(value, name)
            _check_words(name, values[name])
        except PlanError as error:
            accepts = _accepts(known[name])
            raise ProfileError(f"device profile {file}: {name} is {value!r}; it must be {accepts}") from error
    return values


def _words(name: str) -> tuple[str, ...]:
    """Return the words of a key whose choices depend on which formats and delegates there are; else none."""
    if name == "targets":
        return all_targets()
    return {"schemes": tuple(SCHEMES), "delegates": tuple(DELEGATES)}.get(name, ())


def _check_words(name: str, value: Any) -> None:
    words = _words(name)
    if not words:
        return
    used = list(value.values() if isinstance(value, dict) else value)
    twice = isinstance(value, tuple) and len(set(used)) < len(used)
    if not used or twice or not set(used) <= set(words):
        raise PlanError(name)


def _accepts(key: Declaration) -> str:
    if key.repeatable:
        return f"a list, the preferred first and none twice, of {', '.join(_words(key.name))}"
    return key.accepts


def _check(profile: DeviceProfile, file: Traversable) -> None:
    """Check the rules between keys."""
    if profile.name != file.name.removesuffix(".toml"):
        raise ProfileError(f"device profile {file}: name is {profile.name!r}; it must be the file's own name")
    engines = {target.partition(":")[0] for target in profile.targets}
    for scheme in profile.schemes:
        if not engines & set(engines_for_scheme(scheme)):
            raise ProfileError(
                f"device profile {file}: schemes has {scheme!r}, which no engine of targets can hold; "
                f"it needs one of {', '.join(engines_for_scheme(scheme))}"
            )
    _check_delegates(profile.delegates, profile.targets, file)


def _check_delegates(delegates: dict[str, str], targets: tuple[str, ...], file: Traversable) -> None:
    able = [target for target in targets if format_of(target.partition(":")[0]).takes_delegates]
    for target in delegates:
        if target not in able:
            raise ProfileError(
                f"device profile {file}: delegates has {target!r}, which is no target that a delegate can run; "
                f"name one of {', '.join(able) or 'the litert targets, after adding it to targets'}"
            )
