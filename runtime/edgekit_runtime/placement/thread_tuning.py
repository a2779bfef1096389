"""How many threads the engine should have: measured once on a machine, then remembered."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from edgekit_runtime.engines.wheels import installed
from edgekit_runtime.host import state_cache
from edgekit_runtime.inference.stream import cores
from edgekit_runtime.placement.golden_check import processor
from edgekit_runtime.placement.place import place

if TYPE_CHECKING:
    from edgekit_runtime.bundle.reader import Bundle
    from edgekit_runtime.inference.session import Session
    from edgekit_runtime.placement.place import How

TOPIC = "threads"
MEASURED_S = 0.1  # for each number of threads
WORTH = 0.9  # another number is taken when a call then takes at most this much of the time


def best_threads(bundle: Bundle, device: str, require: str | None, how: How) -> int:
    """The number of threads with which the bundle runs fastest here; fewer where more gain less than a tenth.

    Measured on the golden inputs, when the bundle, what is asked of it, a library or the processor is new.

    Raises:
        EdgekitError: as ``place``.
    """
    engines = dict.fromkeys(variant.engine for variant in bundle.manifest.variants)
    key = {
        "files": " ".join(record.sha256 for record in bundle.manifest.files),
        "asked": repr((device, require, how.delegate, how.delegate_options)),
        "libraries": " ".join(installed(engine) for engine in engines),
        "cpu": processor(),
        "cores": str(cores()),
    }
    known = (state_cache.recall(TOPIC, key) or {}).get("threads")
    if isinstance(known, int) and 1 <= known <= cores():
        return known
    best, best_s = 1, float("inf")
    for count in candidates(cores()):
        session, _ = place(bundle, device, require, count, how)
        try:
            taken_s = _call_s(session, bundle)
        finally:
            session.close()
        if taken_s < WORTH * best_s:
            best, best_s = count, taken_s
    state_cache.remember(TOPIC, key, {"threads": best})
    return best


def candidates(most: int) -> list[int]:
    """1, 2, 4, ... and ``most`` itself."""
    return sorted({1 << power for power in range(most.bit_length())} | {most})


def _call_s(session: Session, bundle: Bundle) -> float:
    """Seconds of the quickest call within the time there is; what disturbs a call only ever makes it longer."""
    values = [bundle.array(path)[0] for path in bundle.manifest.golden_inputs]
    session.run(values)
    quickest_s = float("inf")
    end = time.perf_counter() + MEASURED_S
    while (start := time.perf_counter()) < end or quickest_s == float("inf"):
        session.run(values)
        quickest_s = min(quickest_s, time.perf_counter() - start)
    return quickest_s
