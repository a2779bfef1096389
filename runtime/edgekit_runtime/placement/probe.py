"""The first time on a machine, a delegate or an accelerator's plugin is loaded in a child process.

Such libraries segfault, hang and answer nonsense. The child opens the variant, holds its golden outputs, and
reports; whatever becomes of it, the application lives on. What was found is remembered for exactly these files,
library, drivers and kernel.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edgekit_runtime import __version__
from edgekit_runtime.engines import delegates
from edgekit_runtime.errors import (
    DelegateCrashed,
    DelegateUnavailable,
    EdgekitError,
    VerificationError,
)
from edgekit_runtime.host import state_cache
from edgekit_runtime.host.subprocesses import (
    MEMORY_NAME,
    TIMEOUT_NAME,
    asked_bundle,
    asked_variant,
    end_child,
    how_it_ended,
    last_words,
    limit_memory,
    own_stdout,
    start_child,
    timeout_s,
    to_request,
)
from edgekit_runtime.record import dataclass, replace

if TYPE_CHECKING:
    from edgekit_runtime.bundle.reader import Bundle
    from edgekit_runtime.engines import Engine, Library
    from edgekit_runtime.format.manifest import Variant
    from edgekit_runtime.placement.place import How

OK, MISSING, REFUSED, CRASHED, HUNG, WRONG, SLOW = (
    "ok",
    "missing",
    "refused",
    "crashed",
    "hung",
    "wrong answer",
    "slow",
)
# What is found again the next time anyway, and cheaply: hardware may have been plugged in, or set free, since.
PASSING = (MISSING, REFUSED)
ERRORS = {CRASHED: DelegateCrashed, HUNG: DelegateCrashed, WRONG: VerificationError}
SLOW_TIMES, SLOW_MS = 2.0, 1.0  # a delegate that is so much slower than the CPU alone is in the way
RUNS = 5
TOPIC, DIGESTS = "probe", "digests"


@dataclass(frozen=True)
class Probe:
    """What became of a variant in its probe."""

    verdict: str
    reason: str = ""
    remembered: bool = False  # from an earlier probe

    def error(self) -> EdgekitError:
        """The verdict as the error that it is."""
        when = " (found earlier on this machine; `python -m edgekit_runtime check` tries again)"
        kind = ERRORS.get(self.verdict, DelegateUnavailable)
        return kind(f"{self.verdict} in its probe: {self.reason}{when if self.remembered else ''}")


def probe(bundle: Bundle, variant: Variant, library: Library, threads: int | None, how: How) -> Probe:
    """Say what becomes of a variant on this machine, from memory, else by trying it in a child.

    Args:
        bundle: where the variant is.
        variant: as it will be opened.
        library: of its engine.
        threads: as it will be opened.
        how: ``probe_again`` does not ask the memory.

    Raises:
        EngineUnavailable: there is no sign of the hardware.
        DelegateUnavailable: the delegate's library is not installed.
    """
    key = _key(bundle, variant, library, threads)
    known = None if how.probe_again else state_cache.recall(TOPIC, key)
    if known is not None and _stands(known):
        return Probe(str(known["verdict"]), str(known.get("reason")), remembered=True)
    found = _in_child(bundle, to_request(bundle, variant, threads, how.cache))
    if found.verdict in PASSING:
        state_cache.forget(TOPIC, key)
    else:
        state_cache.remember(TOPIC, key, {"verdict": found.verdict, "reason": found.reason, "limit_s": timeout_s()})
    return found


def _stands(known: Mapping[str, Any]) -> bool:
    """Whether a remembered verdict is one, and is not that it hung within less time than there is now."""
    if known.get("verdict") not in (OK, *ERRORS, SLOW):  # it is a file that may have been damaged
        return False
    limit_s = known.get("limit_s")
    return known["verdict"] != HUNG or (isinstance(limit_s, float) and timeout_s() <= limit_s)


def _key(bundle: Bundle, variant: Variant, library: Library, threads: int | None) -> dict[str, str]:
    """All that the verdict depends on."""
    signs = delegates.signs_of(variant)
    if sys.platform == "linux":
        delegates.check_shown(variant, library.name, delegates.found_signs(signs))
    loaded = delegates.plugins_of(variant, library.path) or [library.path]
    digests = {record.path: record.sha256 for record in bundle.manifest.files}
    used = (*variant.files, *variant.golden.outputs, *bundle.manifest.golden_inputs)
    return {
        "library": " ".join(f"{path} {_digest(path)}" for path in loaded),
        "engine": f"{library.name} {library.version}",
        "artifact": " ".join(digests[path] for path in used),
        "settings": json.dumps([variant.device, variant.settings, variant.golden.max_abs, threads], sort_keys=True),
        "drivers": json.dumps(delegates.driver_versions(signs), sort_keys=True),
        "kernel": os.uname().release if hasattr(os, "uname") else sys.platform,
        "edgekit": __version__,
    }


def _digest(path: str) -> str:
    """A library's SHA-256, remembered for as long as the file is not written again; empty for a folder."""
    if os.path.isdir(path):
        return ""
    found = os.stat(path)
    key = {"path": path, "written": f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"}
    digest = (state_cache.recall(DIGESTS, key) or {}).get("sha256")
    if not isinstance(digest, str):
        digest = _sha256(path)
        state_cache.remember(DIGESTS, key, {"sha256": digest})
    return digest


def _sha256(path: str) -> str:
    from hashlib import sha256

    digest = sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _in_child(bundle: Bundle, request: dict[str, Any]) -> Probe:
    limit_s = timeout_s()
    with tempfile.TemporaryFile() as noise:
        child = start_child("edgekit_runtime.placement.probe", noise, bundle.scratch())
        try:
            answer, _ = child.communicate(json.dumps(request).encode(), timeout=limit_s)
        except subprocess.TimeoutExpired:
            return Probe(HUNG, f"no answer within {limit_s:g} s ({TIMEOUT_NAME}){last_words(noise)}")
        finally:
            end_child(child)
        if child.returncode != 0 or not answer:  # a library may end its process as if all were well
            return Probe(CRASHED, f"{how_it_ended(child.returncode)}{last_words(noise)}")
    told = json.loads(answer)
    return Probe(str(told["verdict"]), str(told["reason"]))


# In the child. ---------------------------------------------------------------------------------------


def main() -> None:
    """Try what stdin asks for, and report on stdout, which nobody else may write to."""
    report = own_stdout()
    limit_memory()
    request = json.load(sys.stdin)
    found = _try(request)
    os.write(report, json.dumps(asdict(found)).encode())
    os.close(report)


def _try(request: Mapping[str, Any]) -> Probe:
    from edgekit_runtime.engines import open_engine
    from edgekit_runtime.inference.session import Session
    from edgekit_runtime.placement.golden import check
    from edgekit_runtime.placement.golden_check import wrong

    with asked_bundle(request) as bundle:
        variant = asked_variant(bundle, request)
        run_ms = 0.0
        try:
            engine = open_engine(variant, bundle, request["threads"], keep=request["cache"])
            session = Session(bundle.manifest, variant, engine)
            try:
                differing = wrong(check(session, bundle, variant))
                if variant.delegate is not None and not differing:
                    run_ms = _best_ms(engine)
            finally:
                session.close()
        except EdgekitError as error:
            missing = isinstance(error.__cause__, (OSError, ImportError))
            return Probe(MISSING if missing else REFUSED, str(error))
        except MemoryError:
            return Probe(REFUSED, f"needs more memory than {MEMORY_NAME} allows")
        return Probe(WRONG, differing) if differing else _pace(bundle, variant, request["threads"], run_ms)


def _pace(bundle: Bundle, variant: Variant, threads: int | None, delegate_ms: float) -> Probe:
    """Whether a delegate that answers rightly is worth having: the CPU may run the same file faster."""
    if variant.delegate is None:
        return Probe(OK)
    from edgekit_runtime.engines import open_engine

    try:
        engine = open_engine(replace(variant, delegate=None, device="cpu", settings={}), bundle, threads)
        cpu_ms = _best_ms(engine)
    except EdgekitError:  # the CPU cannot run it at all, as with models compiled for an accelerator
        return Probe(OK)
    engine.close()
    if delegate_ms > SLOW_TIMES * cpu_ms and delegate_ms - cpu_ms > SLOW_MS:
        return Probe(SLOW, f"a run takes {delegate_ms:.3g} ms with the delegate, {cpu_ms:.3g} ms on the CPU alone")
    return Probe(OK)


def _best_ms(engine: Engine) -> float:
    """The quickest of a few runs on zeros."""
    from time import perf_counter

    import numpy as np

    zeros = [np.zeros(info.shape, info.dtype) for info in engine.inputs]
    best_s = float("inf")
    for _ in range(RUNS):
        start_s = perf_counter()
        engine.run(zeros)
        best_s = min(best_s, perf_counter() - start_s)
    return best_s * 1e3


if __name__ == "__main__":
    main()
