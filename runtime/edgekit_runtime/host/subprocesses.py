"""Start, limit and end the child processes in which variants are tried and run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

from edgekit_runtime.errors import EngineUnavailable, PlanError

TIMEOUT_S, TIMEOUT_NAME = 60.0, "EDGEKIT_PROBE_TIMEOUT_S"
MEMORY_NAME = "EDGEKIT_PROBE_MEMORY_MIB"  # no limit where it is not set
INFO_PREFIX = "INFO: "  # of LiteRT's log lines, which explain no failure


def timeout_s() -> float:
    """Return how long a child may take to open a variant, in seconds.

    Raises:
        PlanError: the environment variable is not a valid number.
    """
    return _positive_number(TIMEOUT_NAME, TIMEOUT_S, "seconds above 0, at most 86400", 86400.0)


def memory_bytes() -> int | None:
    """Return how much memory a child may use; None without a limit.

    Raises:
        PlanError: the environment variable is not a valid number.
    """
    if not os.environ.get(MEMORY_NAME):
        return None
    return int(_positive_number(MEMORY_NAME, 0.0, "mebibytes above 0", 2.0**40) * 2**20)


def _positive_number(name: str, default: float, wanted: str, most: float) -> float:
    """Read an environment variable that must be a number above 0 and at most ``most``."""
    text = os.environ.get(name, "")
    with suppress(ValueError):
        value = float(text or default)
        if 0 < value <= most:  # false for NaN
            return value
    raise PlanError(f"the environment variable {name} is {text!r}, wanted {wanted}: change it or unset it")


def start_child(
    module: str, stderr: Any, temp_folder: str, *arguments: str, **popen_options: Any
) -> subprocess.Popen[bytes]:
    """Start a module of this package in a child process, with pipes for stdin and stdout.

    Args:
        module: its full name.
        stderr: the file for the child's stderr.
        temp_folder: the folder for its temporary files, which the caller removes: a child that was killed cannot.
        *arguments: of its command line.
        **popen_options: further options of ``subprocess.Popen``.

    Raises:
        EngineUnavailable: this Python does not know its own executable, as when it is embedded.
        PlanError: an environment variable with a limit is not valid.
    """
    timeout_s(), memory_bytes()  # invalid limits are refused here, in the process that the user sees
    if not sys.executable:
        raise EngineUnavailable("an accelerator is tried in a child process first, and sys.executable is not set")
    # The child's working folder is the package's parent, so that a json.py in the caller's folder is not imported.
    home = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 2))
    path = os.pathsep.join(os.path.abspath(entry) for entry in [home, *sys.path] if entry)
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd=home,
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": temp_folder},
        start_new_session=True,
        **popen_options,
    )


def end_child(child: subprocess.Popen[bytes]) -> None:
    """Kill a child and all processes it started. One that hangs in a driver and cannot be killed is left behind."""
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


def describe_exit(code: int) -> str:
    """Describe an exit code for a message; negative codes are signals."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    known = {int(number): number.name for number in signal.Signals}
    return f"its process was ended by {known.get(-code, f'signal {-code}')}"


def last_line(stderr: Any) -> str:
    """Return the last line that the child wrote to stderr, for a message; empty if it wrote only log lines."""
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - 4096))
    printed = stderr.read().decode(errors="replace").splitlines()
    lines = [line.strip() for line in printed if line.strip() and not line.startswith(INFO_PREFIX)]
    return f", its last output: {lines[-1][:200]}" if lines else ""


# In the child. ---------------------------------------------------------------------------------------


def own_stdout() -> int:
    """Return a new descriptor of stdout for the child's own report; what libraries print goes to stderr."""
    report = os.dup(1)
    os.dup2(2, 1)
    return report


def limit_memory() -> None:
    """Limit this process's memory as the environment variable says, and turn off core files."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit_bytes = memory_bytes()
    if limit_bytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
