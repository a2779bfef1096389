"""The engines: one file each, and one line in the table below. docs/adding-an-engine.md is the guide.

An engine's module has two functions, and what it opens has the five members of ``Engine``:

    library() -> Library                      import the library; EngineUnavailable when it cannot be had
    open_model(path, variant, threads, artifact)   open the artifact as the variant says, or refuse
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from edgekit_runtime.errors import EngineUnavailable
from edgekit_runtime.record import dataclass, field

if TYPE_CHECKING:
    from edgekit_runtime.format.manifest import Variant
    from edgekit_runtime.tensors import Array

ENGINES = {
    "null": "edgekit_runtime.engines.null",  # numpy alone
    "litert": "edgekit_runtime.engines.litert.interpreter",  # .tflite
    "openvino": "edgekit_runtime.engines.openvino",  # .xml and .bin
}


@dataclass(frozen=True)
class TensorInfo:
    """One of the artifact's own inputs or outputs.

    Where scale is set, ``real = (quantized - zero_point) * scale``.
    """

    index: int  # its place in the artifact's list
    name: str
    shape: tuple[int, ...]  # -1 where the artifact leaves it open
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
    """What an opened artifact really runs on, read back from its library rather than from what was asked."""

    device: str  # as the library names it
    precision: str | None  # of float arithmetic, as a numpy name or "bfloat16"; None where the library does not say
    threads: int | None  # None where the library does not say
    delegated: tuple[int, int] | None = None  # operators that the delegate took, and of how many
    libraries: dict[str, str] = field(default_factory=dict)  # what was loaded besides: name -> path


class Engine(Protocol):
    """An artifact, opened. Not thread-safe: a pool lends it to one thread at a time."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The artifact's inputs, in its own order."""

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """The artifact's outputs, in its own order."""

    @property
    def facts(self) -> EngineInfo:
        """What it really runs on."""

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Run once.

        Args:
            arrays: one an input, in the order, shapes and dtypes of ``inputs``.

        Returns:
            One array an output, which the engine will not touch again.
        """

    def twin(self) -> Engine | None:
        """Another engine on the same artifact, for another thread, sharing weights where the library can.

        None where there cannot be two. May be called while this engine runs.

        Raises:
            EngineUnavailable: there is no memory or no unit for another.
        """

    def close(self) -> None:
        """Let go of the artifact. May be called again."""


class Files(Protocol):
    """Where an engine finds a variant's files: a Bundle, or anything that knows."""

    def local_path(self, path: str) -> str:
        """A real file for the path."""

    def digest(self, path: str) -> str:
        """What identifies the content; "" where nobody knows."""


def library(name: str) -> Library:
    """The library of the engine ``name``.

    Raises:
        EngineUnavailable: there is no such engine, or its library is missing or does not load.
    """
    found: Library = _module(name).library()
    return found


def open_engine(variant: Variant, files: Files, threads: int | None = None, *, keep: bool = True) -> Engine:
    """Open a variant's artifact in its engine, on its device.

    Args:
        variant: what to open and how.
        files: a Bundle; every file of the variant is asked for, so all are checked and lie side by side.
        threads: None leaves the number to the engine.
        keep: the engine may use, and fill, the cache of what it makes of artifacts.

    Raises:
        EngineUnavailable: the engine, its library or the device is not here, or it refuses the artifact.
        DelegateUnavailable: the variant wants a delegate that cannot be had.
    """
    module = _module(variant.engine)
    module.library()  # names what is missing before any file is taken out of the bundle
    paths = [files.local_path(path) for path in variant.files]
    digests = [files.digest(path) for path in variant.files] if keep else []
    artifact = " ".join(digests) if all(digests) else ""  # without a digest, what was kept may be of another file
    engine: Engine = module.open_model(paths[0], variant, threads, artifact)
    return engine


def _module(name: str) -> Any:
    if name not in ENGINES:
        raise EngineUnavailable(
            f"there is no engine {name!r} in this edgekit-runtime, only {', '.join(ENGINES)}: "
            "update it with pip install -U edgekit-runtime"
        )
    return import_module(ENGINES[name])
