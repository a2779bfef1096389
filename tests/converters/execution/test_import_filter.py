"""What is hidden is not found, and there again afterwards."""

import sys

import pytest

from edgekit_converters.execution.import_filter import without


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that can be imported, and is not yet."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "this_is_there.py").touch()
    yield "this_is_there"
    sys.modules.pop("this_is_there", None)


def test_a_hidden_package_is_missing_only_inside_the_context(module):
    with without(module), pytest.raises(ImportError, match=module):
        __import__(module)
    assert __import__(module).__name__ == module


def test_a_loaded_package_stays(module):
    loaded = __import__(module)
    with without(module):
        assert __import__(module) is loaded
    assert sys.modules[module] is loaded


def test_after_an_error_it_is_there_too(module):
    with pytest.raises(KeyError), without(module):
        raise KeyError
    assert module not in sys.modules
