"""A variant tried or run in a child process: how that is asked, started, bounded and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from edgekit_runtime.errors import DigestMismatch, EngineUnavailable, PlanError
from edgekit_runtime.record import replace

if TYPE_CHECKING:
    from edgekit_runtime.bundle.reader import Bundle
    from edgekit_runtime.format.manifest import Variant

TIMEOUT_S, TIMEOUT_NAME = 60.0, "EDGEKIT_PROBE_TIMEOUT_S"
MEMORY_NAME = "EDGEKIT_PROBE_MEMORY_MIB"  # no limit where it is not set
CHATTER = "INFO: "  # so LiteRT begins what explains no failure


def timeout_s() -> float:
    """How long a child may take to open a variant.

    Raises:
        PlanError: the environment says something else than seconds.
    """
    return _told(TIMEOUT_NAME, TIMEOUT_S, "seconds above 0, at most 86400", 86400.0)


def memory_bytes() -> int | None:
    """How much memory a child may take; None without a limit.

    Raises:
        PlanError: the environment says something else than a number.
    """
    if not os.environ.get(MEMORY_NAME):
        return None
    return int(_told(MEMORY_NAME, 0.0, "mebibytes above 0", 2.0**40) * 2**20)


def _told(name: str, usual: float, wanted: str, most: float) -> float:
    """A number above 0 from the environment."""
    text = os.environ.get(name, "")
    with suppress(ValueError):
        value = float(text or usual)
        if 0 < value <= most:  # NaN is not
            return value
    raise PlanError(f"the environment says {name}={text}, wanted {wanted}: set it anew, or unset it")


def to_request(bundle: Bundle, variant: Variant, threads: int | None, cache: bool) -> dict[str, Any]:
    """What a child has to know to open a variant; ``asked_bundle`` and ``asked_variant`` read it there."""
    return {
        "bundle": os.path.abspath(bundle.path),
        "manifest_sha256": bundle.manifest_sha256,
        "decryption_key": bundle.key_for_children(),
        "variant": variant.name,
        "delegate": variant.delegate,
        "settings": variant.settings,
        "threads": threads,
        "cache": cache,
    }


def start_child(module: str, noise: Any, scratch: str, *arguments: str, **more: Any) -> subprocess.Popen[bytes]:
    """Start a module of this package in a process of its own.

    Its stderr goes to the file ``noise``, and its temporary files to the folder ``scratch``, which whoever asked
    removes: a child that crashes or is killed cannot.

    Raises:
        EngineUnavailable: this Python does not know its own executable, as when it is embedded.
        PlanError: the environment's limits are none.
    """
    timeout_s(), memory_bytes()  # said here, where people see it
    if not sys.executable:
        raise EngineUnavailable("an accelerator is tried in a child process first, and sys.executable is not set")
    # The child stands where this package lies, so that a json.py in the caller's folder is not taken for Python's.
    home = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 2))
    path = os.pathsep.join(os.path.abspath(entry) for entry in [home, *sys.path] if entry)
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=noise,
        cwd=home,
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": scratch},
        start_new_session=True,
        **more,
    )


def end_child(child: subprocess.Popen[bytes]) -> None:
    """Kill a child with all that it started. One that the kernel cannot kill, as a driver hangs, is left behind."""
    if child.poll() is None:
        with suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(child.pid, signal.SIGKILL)
            else:
                child.kill()
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=5)
    for pipe in (child.stdin, child.stdout):
        with suppress(OSError):
            if pipe is not None:
                pipe.close()


def how_it_ended(code: int) -> str:
    """An exit code, for people: negative ones are signals."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    known = {int(number): number.name for number in signal.Signals}
    return f"its process was ended by {known.get(-code, f'signal {-code}')}"


def last_words(noise: Any) -> str:
    """The last line that the child printed, but for chatter."""
    noise.seek(max(0, noise.seek(0, os.SEEK_END) - 4096))
    printed = noise.read().decode(errors="replace").splitlines()
    lines = [line.strip() for line in printed if line.strip() and not line.startswith(CHATTER)]
    return f", its last words: {lines[-1][:200]}" if lines else ""


# In the child. ---------------------------------------------------------------------------------------


def own_stdout() -> int:
    """Keep stdout for this module; what libraries print goes to stderr."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return kept


def limit_memory() -> None:
    """Bound the memory of this process as the environment says, and have it leave no core file."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit_bytes = memory_bytes()
    if limit_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def asked_bundle(request: Mapping[str, Any]) -> Bundle:
    """The bundle of a request, which must still be the one that was opened, and trusted, where it was asked.

    Raises:
        DigestMismatch: it is another.
    """
    from edgekit_runtime.bundle.reader import open_bundle

    given = request["decryption_key"]
    bundle = open_bundle(request["bundle"], trust=False, decryption_key=given and bytes.fromhex(given))
    if bundle.manifest_sha256 != request["manifest_sha256"]:
        raise DigestMismatch(f"{bundle.path}: was replaced while it was open: load it again")
    return bundle


def asked_variant(bundle: Bundle, request: Mapping[str, Any]) -> Variant:
    """The variant of a request, with the delegate and settings that the caller chose."""
    variant = next(v for v in bundle.manifest.variants if v.name == request["variant"])
    return replace(variant, delegate=request["delegate"], settings=request["settings"])
