"""A stage: one function of the conversion, with the types of what it takes and returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

Request = TypeVar("Request")
Record = TypeVar("Record")


@dataclass(frozen=True)
class Stage(Generic[Request, Record]):
    """A function that a runner calls in a worker process, through the cache.

    A stage is declared beside its function, in a module that imports no toolchain. Request and record are frozen
    dataclasses; the function writes files only into the folder that it gets.
    """

    function: Callable[[Request, Path], Record]
    toolchain: Callable[[Request], str]  # a request -> the toolchain whose worker runs it
    pure: bool = True  # the result depends on the request and the installed versions only, so it can be cached

    @property
    def name(self) -> str:
        """The function's name, as progress lines, errors and reports show it."""
        return self.function.__name__

    @property
    def location(self) -> str:
        """The function as ``"module:function"``, for the worker."""
        return f"{self.function.__module__}:{self.name}"
