"""The options of ``edgekit_runtime.load`` in one record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from edgekit_runtime.record import dataclass

if TYPE_CHECKING:
    from edgekit_runtime.engines.delegates import Options
    from edgekit_runtime.trust.encryption import KeySource
    from edgekit_runtime.trust.policy import Trust

CHECKS = ("auto", "always", "never")
ISOLATE_S, MAX_ISOLATE_S = 10.0, 86400.0  # time limit of a run in a child process: the default, and the highest


@dataclass(frozen=True)
class Event:
    """A variant that an isolated model lost while it ran; the argument of ``on_event``."""

    lost: str  # the variant's name
    reason: str  # how its process crashed or hung
    now: str | None  # the variant that runs instead, which may be the same one, opened again; None if none could be
    delegate: str | None = None  # of the lost variant


@dataclass(frozen=True)
class LoadOptions:
    """The options of ``edgekit_runtime.load``, which documents each of them; the names are the same."""

    device: str = "auto"
    require: str | None = None
    threads: int | str | None = None
    delegate: str | None = None
    delegate_options: Options | None = None
    check: str = "auto"
    concurrency: int | None = None
    isolate: bool | float = False
    on_event: Callable[[Event], Any] | None = None
    cache: bool = True
    trust: Trust = None
    decryption_key: KeySource | None = None

    @property
    def engine_threads(self) -> int | None:
        """The number of threads of an engine; None leaves it to the engine, as ``"auto"`` does until it is measured."""
        return None if isinstance(self.threads, str) else self.threads

    @property
    def isolate_s(self) -> float | None:
        """The time limit of a run in a child process, in seconds; None runs in this process."""
        if isinstance(self.isolate, bool):
            return ISOLATE_S if self.isolate else None
        return float(self.isolate)


DEFAULTS = LoadOptions()


def check_options(options: LoadOptions) -> None:
    """Refuse values that no bundle could be loaded with.

    Raises:
        ValueError: an option is out of its range; the message names it.
    """
    threads, concurrency, isolate = options.threads, options.concurrency, options.isolate
    if threads not in (None, "auto") and (not isinstance(threads, int) or threads < 1):
        raise ValueError(f"threads is {threads!r}, wanted None, 'auto' or at least 1")
    if concurrency is not None and concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}, wanted None or at least 1")
    if options.check not in CHECKS:
        raise ValueError(f"check is {options.check!r}, wanted one of {', '.join(CHECKS)}")
    if not isinstance(isolate, bool) and not 0 < isolate <= MAX_ISOLATE_S:  # false for NaN, too
        raise ValueError(f"isolate is {isolate}, wanted True, False, or positive seconds, at most {MAX_ISOLATE_S:g}")
