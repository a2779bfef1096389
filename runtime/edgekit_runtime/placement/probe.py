"""Try a delegate or an accelerator in a child process before it is loaded into the application.

Their libraries can crash, hang or compute wrong outputs. The child opens the variant, runs its golden check, and
reports; if it crashes or hangs, the application is not affected. The result is cached for exactly these files, library,
drivers and kernel.
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

from edgekit_runtime.engines import delegates
from edgekit_runtime.engines.child_request import bundle_of, make_request, variant_of
from edgekit_runtime.errors import DelegateCrashed, DelegateUnavailable, EdgekitError, VerificationError
from edgekit_runtime.host import state_cache
from edgekit_runtime.host.subprocesses import (
    MEMORY_NAME,
    TIMEOUT_NAME,
    describe_exit,
    end_child,
    last_line,
    limit_memory,
    own_stdout,
    start_child,
    timeout_s,
)
from edgekit_runtime.record import dataclass, replace
from edgekit_runtime.version import __version__

if TYPE_CHECKING:
    from edgekit_runtime.bundle.reader import Bundle
    from edgekit_runtime.engines import Engine, Library
    from edgekit_runtime.format.manifest import Variant
    from edgekit_runtime.placement.load_options import LoadOptions

OK, MISSING, REFUSED, CRASHED, HUNG, WRONG, SLOW = (
    "ok",
    "missing",
    "refused",
    "crashed",
    "hung",
    "wrong answer",
    "slow",
)
# Verdicts that are not cached: hardware may have been plugged in or released since, and they are quick to find again.
NOT_CACHED = (MISSING, REFUSED)
ERRORS = {CRASHED: DelegateCrashed, HUNG: DelegateCrashed, WRONG: VerificationError}
SLOW_FACTOR, SLOW_MS = 2.0, 1.0  # a delegate is slow if it takes that many times, and ms more than, the CPU alone
RUNS = 5
TOPIC, DIGESTS_TOPIC = "probe", "digests"  # in the state cache


@dataclass(frozen=True)
class ProbeResult:
    """The result of trying a variant in a child process."""

    verdict: str  # OK, MISSING, REFUSED, CRASHED, HUNG, WRONG or SLOW
    reason: str = ""
    remembered: bool = False  # from the state cache

    def error(self) -> EdgekitError:
        """Return the verdict as an error."""
        when = " (found earlier on this machine; `python -m edgekit_runtime verify` tries again)"
        kind = ERRORS.get(self.verdict, DelegateUnavailable)
        return kind(f"{self.verdict} in its probe: {self.reason}{when if self.remembered else ''}")


def probe(
    bundle: Bundle, variant: Variant, library: Library, options: LoadOptions, *, again: bool = False
) -> ProbeResult:
    """Try a variant in a child process, or return the cached result of an earlier try.

    Args:
        bundle: the variant's bundle.
        variant: the variant, as it will be opened.
        library: of its engine.
        options: the options of ``load``.
        again: ignore the cached result.

    Raises:
        EngineUnavailable: the hardware was not found.
        DelegateUnavailable: the delegate's library is not installed.
    """
    threads = options.engine_threads
    key = _key(bundle, variant, library, threads)
    entry = None if again else state_cache.get(TOPIC, key)
    if entry is not None and _is_valid(entry):
        return ProbeResult(str(entry["verdict"]), str(entry.get("reason")), remembered=True)
    found = _in_child(bundle, make_request(bundle, variant, threads, options.cache))
    if found.verdict in NOT_CACHED:
        state_cache.delete(TOPIC, key)
    else:
        state_cache.put(TOPIC, key, {"verdict": found.verdict, "reason": found.reason, "limit_s": timeout_s()})
    return found


def _is_valid(entry: Mapping[str, Any]) -> bool:
    """Whether a cached entry has a known verdict, and was not a timeout with a shorter limit than today's."""
    if entry.get("verdict") not in (OK, *ERRORS, SLOW):  # the file may have been damaged
        return False
    limit_s = entry.get("limit_s")
    return entry["verdict"] != HUNG or (isinstance(limit_s, float) and timeout_s() <= limit_s)


def _key(bundle: Bundle, variant: Variant, library: Library, threads: int | None) -> dict[str, str]:
    """Return everything that the verdict depends on."""
    signs = delegates.signs_of(variant)
    if sys.platform == "linux":
        delegates.check_hardware(variant, library.name, delegates.find_signs(signs))
    loaded = delegates.libraries_of(variant, library.path) or [library.path]
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
    """Return a library's SHA-256, from the state cache while the file is unchanged; empty for a folder."""
    if os.path.isdir(path):
        return ""
    found = os.stat(path)
    key = {"path": path, "written": f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"}
    digest = (state_cache.get(DIGESTS_TOPIC, key) or {}).get("sha256")
    if not isinstance(digest, str):
        digest = _sha256(path)
        state_cache.put(DIGESTS_TOPIC, key, {"sha256": digest})
    return digest


def _sha256(path: str) -> str:
    from hashlib import sha256

    digest = sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _in_child(bundle: Bundle, request: dict[str, Any]) -> ProbeResult:
    limit_s = timeout_s()
    with tempfile.TemporaryFile() as stderr:
        child = start_child("edgekit_runtime.placement.probe", stderr, bundle.temp_folder())
        try:
            answer, _ = child.communicate(json.dumps(request).encode(), timeout=limit_s)
        except subprocess.TimeoutExpired:
            return ProbeResult(HUNG, f"no answer within {limit_s:g} s ({TIMEOUT_NAME}){last_line(stderr)}")
        finally:
            end_child(child)
        if child.returncode != 0 or not answer:  # a library may end its process with exit code 0
            return ProbeResult(CRASHED, f"{describe_exit(child.returncode)}{last_line(stderr)}")
    report = json.loads(answer)
    return ProbeResult(str(report["verdict"]), str(report["reason"]))


# In the child. ---------------------------------------------------------------------------------------


def main() -> None:
    """Try the variant of the request on stdin, and write the result to stdout as JSON."""
    report = own_stdout()
    limit_memory()
    request = json.load(sys.stdin)
    found = _try(request)
    os.write(report, json.dumps(asdict(found)).encode())
    os.close(report)


def _try(request: Mapping[str, Any]) -> ProbeResult:
    from edgekit_runtime.engines import open_engine
    from edgekit_runtime.inference.session import Session
    from edgekit_runtime.placement.golden_check import failures, golden_differences

    with bundle_of(request) as bundle:
        variant = variant_of(bundle, request)
        run_ms = 0.0
        try:
            engine = open_engine(variant, bundle, request["threads"], keep=request["cache"])
            session = Session(bundle.manifest, variant, engine)
            try:
                problem = failures(golden_differences(session, bundle, variant))
                if variant.delegate is not None and not problem:
                    run_ms = _best_ms(engine)
            finally:
                session.close()
        except EdgekitError as error:
            missing = isinstance(error.__cause__, (OSError, ImportError))
            return ProbeResult(MISSING if missing else REFUSED, str(error))
        except MemoryError:
            return ProbeResult(REFUSED, f"needs more memory than {MEMORY_NAME} allows")
        return (
            ProbeResult(WRONG, problem) if problem else _compare_with_cpu(bundle, variant, request["threads"], run_ms)
        )


def _compare_with_cpu(bundle: Bundle, variant: Variant, threads: int | None, delegate_ms: float) -> ProbeResult:
    """Return SLOW for a delegate that computes correctly but is slower than the CPU alone, else OK."""
    if variant.delegate is None:
        return ProbeResult(OK)
    from edgekit_runtime.engines import open_engine

    try:
        engine = open_engine(replace(variant, delegate=None, device="cpu", settings={}), bundle, threads)
        cpu_ms = _best_ms(engine)
    except EdgekitError:  # the CPU cannot run it, as with models compiled for an accelerator
        return ProbeResult(OK)
    engine.close()
    if delegate_ms > SLOW_FACTOR * cpu_ms and delegate_ms - cpu_ms > SLOW_MS:
        return ProbeResult(
            SLOW, f"a run takes {delegate_ms:.3g} ms with the delegate, {cpu_ms:.3g} ms on the CPU alone"
        )
    return ProbeResult(OK)


def _best_ms(engine: Engine) -> float:
    """Return the time of the fastest of a few runs on zeros, in milliseconds."""
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
