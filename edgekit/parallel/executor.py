"""Who tries candidates, and parts of evaluations: threads that drive worker processes; ``cluster.py`` has others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

Given = TypeVar("Given")
Gives = TypeVar("Gives")


class Executor(Protocol):
    """Does some things side by side."""

    @property
    def jobs(self) -> int:
        """How many at once."""

    @property
    def begins_s(self) -> float:
        """About how long one more takes until it works, in seconds."""

    @property
    def notes(self) -> Sequence[str]:
        """What went wrong and was made up for, for people."""

    def each(
        self, try_it: Callable[[Given, str], Gives], given: Sequence[Given], reason: Callable[[int], str]
    ) -> list[Gives]:
        """Return what ``try_it(one, reason(place))`` gives of each one, in order.

        ``reason`` is asked, here, at the moment that someone is free to begin with that one.
        """


@dataclass(frozen=True)
class Threads:
    """Threads of this process; what they run, runs in worker processes."""

    jobs: int = 1
    begins_s: float = 1.0  # an engine's worker
    notes: tuple[str, ...] = ()

    def each(
        self, try_it: Callable[[Given, str], Gives], given: Sequence[Given], reason: Callable[[int], str]
    ) -> list[Gives]:
        """See :class:`Executor`; one at a time takes no library."""
        if self.jobs == 1:
            return [try_it(one, reason(place)) for place, one in enumerate(given)]
        return through_joblib(self.jobs, try_it, given, reason, backend="threading")


ALONE = Threads()


def through_joblib(
    jobs: int,
    try_it: Callable[[Given, str], Gives],
    given: Sequence[Given],
    reason: Callable[[int], str],
    **options: Any,
) -> list[Gives]:
    """Do it with joblib: one at a time to each job, and the next only when one is done."""
    from joblib import Parallel, delayed

    def calls() -> Iterator[Any]:
        for place, one in enumerate(given):
            yield delayed(try_it)(one, reason(place))

    return list(Parallel(n_jobs=jobs, batch_size=1, pre_dispatch="n_jobs", **options)(calls()))
