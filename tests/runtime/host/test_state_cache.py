"""The state cache finds values under their keys, and is optional."""

import os

import pytest

from edgekit_runtime.commands import doctor
from edgekit_runtime.host import state_cache


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def test_a_value_is_found_only_under_its_key():
    assert state_cache.get("probe", {"library": "a"}) is None
    assert state_cache.put("probe", {"library": "a"}, {"verdict": "ok"})
    assert state_cache.get("probe", {"library": "a"}) == {"verdict": "ok"}
    assert state_cache.get("probe", {"library": "b"}) is None
    assert state_cache.get("threads", {"library": "a"}) is None


def test_a_deleted_value_is_not_found():
    state_cache.put("probe", {"library": "a"}, {"verdict": "ok"})
    state_cache.delete("probe", {"library": "a"})
    state_cache.delete("probe", {"library": "a"})
    assert state_cache.get("probe", {"library": "a"}) is None


def test_nothing_is_written_when_nothing_changed(state):
    state_cache.put("probe", {"library": "a"}, {"verdict": "ok"})
    (file,) = (state / "probe").iterdir()
    os.utime(file, (1, 1))
    state_cache.put("probe", {"library": "a"}, {"verdict": "ok"})
    assert file.stat().st_mtime == 1


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "[" * 100_000, '{"key": {}, "value": 1}', '{"key": {"library": "b"}, "value": {}}'],
)
def test_a_damaged_entry_is_not_found(state, content):
    state_cache.put("probe", {"library": "a"}, {"verdict": "ok"})
    (file,) = (state / "probe").iterdir()
    file.write_text(content)
    assert state_cache.get("probe", {"library": "a"}) is None


def test_a_folder_that_cannot_be_written_caches_nothing(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path / "file"))
    assert state_cache.put("probe", {"library": "a"}, {"verdict": "ok"}) is False
    assert state_cache.get("probe", {"library": "a"}) is None


def test_without_a_home_nothing_is_cached_and_doctor_warns(monkeypatch, tmp_path):
    for name in ("EDGEKIT_STATE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as it is for a user that the system does not know
    monkeypatch.chdir(tmp_path)
    assert state_cache.put("probe", {"library": "a"}, {"verdict": "ok"}) is False
    assert state_cache.get("probe", {"library": "a"}) is None
    assert list(tmp_path.iterdir()) == []
    assert any("EDGEKIT_STATE" in warning for warning in doctor.diagnose().warnings)


def test_the_number_of_entries_is_limited(state, monkeypatch):
    monkeypatch.setattr(state_cache, "MAX_ENTRIES", 3)
    for number in range(6):
        state_cache.put("probe", {"n": str(number)}, {"n": number})
        for file in (state / "probe").iterdir():
            os.utime(file, (file.stat().st_mtime - 1, file.stat().st_mtime - 1))
    assert len(list((state / "probe").iterdir())) == 3
    assert state_cache.get("probe", {"n": "5"}) == {"n": 5}
