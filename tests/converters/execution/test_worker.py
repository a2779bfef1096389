"""The child process: results, errors, progress, cost, and every way it may die."""

import operator
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from edgekit_converters.execution.worker import Worker
from edgekit_runtime.errors import DataError, DiskFull, ToolchainError


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """A worker that can import the module `chores` of the test's own folder."""
    (tmp_path / "chores.py").write_text(
        textwrap.dedent(
            """
            import os, resource, signal, sys, tempfile, time
            from edgekit_converters.progress import report_progress
            from edgekit_runtime.errors import ConversionError, DataError, DiskFull

            def add(a, b): return a + b
            def count(n):
                for i in range(n): report_progress(i + 1, n, "half" if 2 * i == n else "")
                return n
            def refuse(): raise ConversionError("no", stage="lower", subject="layer", advice="do this")
            def data(): raise DataError("bad data")
            def fail(): raise RuntimeError("first line\\nsecond line")
            def noise(): print("to stdout"); os.write(2, b"to stderr"); return 1
            def abort(): os.abort()
            def leave(): os._exit(9)
            def full(): raise OSError(28, "No space left on device", "model.tflite")
            def mapped():
                try: full()
                except OSError as error: raise ConversionError("not made") from error
            def elsewhere():
                try: full()
                except OSError as error: raise DiskFull("no room in /elsewhere") from error
            def limit(size): resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            def write(size):
                with tempfile.TemporaryFile() as file: file.write(bytes(size))
            def sleep(): time.sleep(60)
            def grab(mib): return len(b"x" * (mib * 2**20))
            """
        )
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    log = tmp_path / "log"
    running = Worker("keras", log, tmp_path)
    yield running
    running.close()


def test_results_come_back_and_the_process_is_kept(worker):
    first, cost = worker.call("lower", "chores:add", 1, 2)
    assert first == 3
    assert cost.seconds >= 0
    assert cost.peak_mib > 1
    pid = worker.process.pid
    assert worker.call("lower", "chores:add", "a", "b")[0] == "ab"
    assert worker.process.pid == pid


def test_progress_is_reported_in_order(worker):
    seen = []
    worker.call("lower", "chores:count", 4, progress=lambda *values: seen.append(values))
    assert seen == [(1, 4, ""), (2, 4, ""), (3, 4, "half"), (4, 4, "")]


def test_edgekit_errors_are_returned_unchanged(worker):
    with pytest.raises(DataError, match="bad data"):
        worker.call("prepare", "chores:data")
    with pytest.raises(Exception, match="no") as caught:
        worker.call("lower", "chores:refuse")
    assert (caught.value.stage, caught.value.subject, caught.value.advice) == ("lower", "layer", "do this")


def test_any_other_error_is_one_line_and_the_path_of_the_log(worker):
    with pytest.raises(ToolchainError) as caught:
        worker.call("lower", "chores:fail")
    assert "RuntimeError: first line" in str(caught.value)
    assert "second line" not in str(caught.value)
    assert str(worker.log) in str(caught.value)
    assert "second line" in worker.log.read_text()
    assert worker.call("lower", "chores:add", 1, 1)[0] == 2  # and it lives on


@pytest.mark.parametrize("chore", ["full", "mapped"])
def test_a_full_disk_is_named_and_so_is_where(worker, tmp_path, chore):
    with pytest.raises(DiskFull, match="No space left on device: the disk of") as caught:
        worker.call("lower", f"chores:{chore}")
    assert (caught.value.stage, caught.value.subject) == ("lower", "keras")
    assert str(tmp_path) in str(caught.value) and "TMPDIR" in caught.value.advice


def test_who_knows_which_disk_is_full_is_believed(worker):
    with pytest.raises(DiskFull, match=r"no room in /elsewhere$"):
        worker.call("train", "chores:elsewhere")


def test_a_file_that_may_not_grow_is_no_room_either(worker):
    worker.call("lower", "chores:limit", 4096)
    with pytest.raises(DiskFull, match="File too large"):
        worker.call("lower", "chores:write", 8192)


def test_a_crash_on_a_full_disk_is_reported_as_a_full_disk(small_disk, tmp_path):
    with pytest.raises(OSError, match="No space"), (small_disk / "filled").open("wb") as file:
        file.write(bytes(2**17))
    worker = Worker("keras", tmp_path / "log", small_disk)
    with pytest.raises(DiskFull, match=str(small_disk)):
        worker.call("lower", "os:abort")


def test_output_goes_to_the_log_only(worker, capfd):
    worker.call("lower", "chores:noise")
    worker.close()
    assert capfd.readouterr() == ("", "")
    assert "to stdout" in worker.log.read_text()
    assert "to stderr" in worker.log.read_text()


@pytest.mark.parametrize(("chore", "message"), [("abort", "SIGABRT"), ("leave", "exit code 9")])
def test_a_toolchain_that_dies_is_one_readable_error(worker, chore, message):
    with pytest.raises(ToolchainError, match=message) as caught:
        worker.call("quantize", f"chores:{chore}")
    assert caught.value.stage == "quantize"


class Unreadable:
    """Pickled here, it cannot be read there."""

    def __reduce__(self):
        return operator.truediv, (1, 0)


def test_a_call_that_cannot_be_read_is_an_error_and_no_wait(worker):
    with pytest.raises(ToolchainError, match="ended with exit code 1"):
        worker.call("test", "chores:add", Unreadable())
    assert "ZeroDivisionError" in worker.log.read_text()


def test_a_killed_toolchain_hints_at_memory(worker):
    threading.Timer(0.5, lambda: os.kill(worker.process.pid, signal.SIGKILL)).start()
    with pytest.raises(ToolchainError, match="SIGKILL; the machine may have run out of memory"):
        worker.call("lower", "chores:sleep")
    with pytest.raises(ToolchainError):  # and a call after its death says so, too
        worker.call("lower", "chores:add", 1, 1)


def test_peak_memory_is_that_of_the_call(worker):
    _, large = worker.call("lower", "chores:grab", 200)
    _, small = worker.call("lower", "chores:add", 1, 1)
    assert large.peak_mib > 200
    assert small.peak_mib < large.peak_mib - 100


def test_it_ends_when_its_parent_is_killed(tmp_path):
    script = (
        "import sys, pathlib; from edgekit_converters.execution.worker import Worker\n"
        f"folder = pathlib.Path({str(tmp_path)!r}); w = Worker('keras', folder / 'log', folder)\n"
        "print(w.process.pid, flush=True); w.call('lower', 'time:sleep', 60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid):
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"
