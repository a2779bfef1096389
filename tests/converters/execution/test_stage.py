"""Every declared stage keeps the contract that runner, worker and cache rely on."""

import inspect
import subprocess
import sys
import typing
from dataclasses import fields, is_dataclass
from pathlib import Path

NOT_CACHED = {"prepare", "subset", "pseudo_label", "measure", "rank", "time_layers", "time_models"}
TOOLCHAINS = {"ai_edge_litert", "keras", "nncf", "openvino", "tensorflow", "tf_keras", "torch"}


def test_every_stage_takes_a_frozen_request_and_a_folder(stages):
    for name, stage in stages.items():
        hints = typing.get_type_hints(stage.function)
        request, folder = (hints[parameter] for parameter in inspect.signature(stage.function).parameters)
        assert is_dataclass(request), name
        assert request.__dataclass_params__.frozen, name
        assert folder is Path, name
        assert fields(request), name


def test_every_stage_returns_a_frozen_record(stages):
    for name, stage in stages.items():
        record = typing.get_type_hints(stage.function)["return"]
        assert typing.get_origin(record) is tuple or record.__dataclass_params__.frozen, name


def test_a_worker_finds_every_stage(stages):
    for name, stage in stages.items():
        module, _, function = stage.location.partition(":")
        assert getattr(sys.modules[module], function) is stage.function, name


def test_stages_are_cached_unless_they_measure_time_or_copy_data(stages):
    assert {name for name, stage in stages.items() if not stage.pure} == NOT_CACHED


def test_importing_a_stage_imports_no_toolchain(stages):
    modules = sorted({stage.function.__module__ for stage in stages.values()})
    code = f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {name.partition(".")[0] for name in done.stdout.split()} & TOOLCHAINS
