"""Importing the tool loads no toolchain: toolchains run in child processes.

Which package may import which is held by the import-linter contracts in pyproject.toml.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

TOOLCHAINS = {
    *("ai_edge_litert", "ai_edge_quantizer", "keras", "litert_converter", "litert_torch", "nncf", "onnx"),
    *("openvino", "tensorflow", "tf_keras", "tflite_runtime", "torch", "transformers"),
}
IMPORT_ALL = """
import importlib, pkgutil, sys
import edgekit
for module in pkgutil.walk_packages(edgekit.__path__, "edgekit."):
    if module.name not in ("edgekit.__main__", "edgekit.demo.make_digits"):  # scripts
        importlib.import_module(module.name)
print(*sys.modules)
"""


@pytest.mark.needs_rich
@pytest.mark.needs_image
@pytest.mark.needs_cryptography
@pytest.mark.needs_zstandard
def test_the_parent_process_imports_no_toolchain() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert {"edgekit.pipeline", "edgekit_converters.execution.worker", "edgekit_converters.records"} <= loaded
    assert not {name.partition(".")[0] for name in loaded} & TOOLCHAINS
