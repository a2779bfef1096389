"""The engines: one module each, and one line in the table below. docs/adding-an-engine.md is the guide.

An engine's module has a constant and two functions. Only the functions import the library:

    WHEELS                                               for each architecture, the fields of its wheels.Wheel
    library() -> Library                                 import the library, or raise EngineUnavailable
    open_model(path, variant, threads, artifact) -> Engine   open the artifact on the variant's device, or refuse it
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from edgekit_runtime.errors import EngineUnavailable
from edgekit_runtime.record import dataclass, field

if TYPE_CHECKING:
    from edgekit_runtime.format.manifest import Variant
    from edgekit_runtime.tensors import Array


class EngineEntry(NamedTuple):
    """An engine's module, and its library's packages in the order in which they are tried."""

    module: str
    packages: tuple[str, ...] = ()


ENGINES = {
    "null": EngineEntry("edgekit_runtime.engines.null"),  # numpy alone
    "litert": EngineEntry("edgekit_runtime.engines.litert", ("ai_edge_litert", "tflite_runtime")),  # .tflite
    "openvino": EngineEntry("edgekit_runtime.engines.openvino", ("openvino",)),  # .xml and .bin
}


@dataclass(frozen=True)
class TensorInfo:
    """One of the artifact's own inputs or outputs.

    If scale is set, ``real = (quantized - zero_point) * scale``.
    """

    index: int  # in the artifact's list
    name: str
    shape: tuple[int, ...]  # -1 for a dynamic dimension
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True)
class Library:
    """The library under an engine."""

    name: str
    version: str
    level: str  # the version in the numbering that Requirements.engine_version is written in
    path: str = ""  # where it is installed


@dataclass(frozen=True)
class EngineInfo:
    """What an opened artifact runs on, as its library reports it, which may differ from the request."""

    device: str  # as the library names it
    precision: str | None  # of float arithmetic, as a numpy name or "bfloat16"; None if the library does not report it
    threads: int | None  # None if the library does not report it
    delegated: tuple[int, int] | None = None  # operators that the delegate runs, and operators in all
    libraries: dict[str, str] = field(default_factory=dict)  # other libraries that were loaded: name -> path


class Engine(Protocol):
    """An opened artifact. Not thread-safe: a pool lends it to one thread at a time."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The artifact's inputs, in its own order."""

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The artifact's outputs, in its own order."""

    @property
    def facts(self) -> EngineInfo:
        """What it runs on."""

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Run once.

        Args:
            arrays: one for each input, in the order, shapes and dtypes of ``inputs``.

        Returns:
            One array for each output, which the engine does not change later.
        """

    def clone(self) -> Engine | None:
        """Open another engine on the same artifact, for another thread, with shared weights if the library can.

        Returns None if there can be only one. May be called while this engine runs.

        Raises:
            EngineUnavailable: there is no memory or no device for another.
        """

    def close(self) -> None:
        """Release the artifact. May be called again."""


class Files(Protocol):
    """Where an engine finds a variant's files, such as a Bundle."""

    def local_path(self, path: str) -> str:
        """Return the path of a file with the content."""

    def digest(self, path: str) -> str:
        """Return a digest of the content; "" if there is none."""


def library(name: str) -> Library:
    """Import the library of the engine ``name``.

    Raises:
        EngineUnavailable: there is no such engine, or its library is missing or does not load.
    """
    found: Library = engine_module(name).library()
    return found


def open_engine(variant: Variant, files: Files, threads: int | None = None, *, keep: bool = True) -> Engine:
    """Open a variant's artifact in its engine, on its device.

    Args:
        variant: the artifact, its engine and its device.
        files: a Bundle; it checks every file of the variant, and puts them side by side.
        threads: None leaves the number to the engine.
        keep: allow the engine to use the compile cache.

    Raises:
        EngineUnavailable: the engine, its library or the device is not here, or it refuses the artifact.
        DelegateUnavailable: the variant's delegate is not available.
    """
    module = engine_module(variant.engine)
    module.library()  # reports a missing library before any file is copied out of the bundle
    paths = [files.local_path(path) for path in variant.files]
    digests = [files.digest(path) for path in variant.files] if keep else []
    artifact = " ".join(digests) if all(digests) else ""  # without digests, the cache could return another model
    engine: Engine = module.open_model(paths[0], variant, threads, artifact)
    return engine


def engine_module(name: str) -> Any:
    """Import an engine's module, but not its library."""
    if name not in ENGINES:
        raise EngineUnavailable(
            f"there is no engine {name!r} in this edgekit-runtime, only {', '.join(ENGINES)}: "
            "update it with pip install -U edgekit-runtime"
        )
    return import_module(ENGINES[name].module)
