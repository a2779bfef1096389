"""The C array: compiled with cc, and its arena compared with the allocations of TFLite Micro."""

from __future__ import annotations

import re
import struct
from dataclasses import replace

import pytest

from edgekit.package.arena import estimate
from edgekit_runtime import open_bundle
from edgekit_runtime.errors import ConversionError, PlanError
from edgekit_runtime.format.manifest import TensorBinding

pytestmark = pytest.mark.needs_tflite

# Prints what the header says, and the array's alignment and bytes; as C and as C++.
MAIN = """\
#include <stdint.h>
#include <stdio.h>
#include "quarters_model.h"
int main(void) {
    unsigned long sum = 0;
    for (unsigned i = 0; i < QUARTERS_MODEL_BYTES; i++) sum = sum * 31 % 1000003 + quarters_model[i];
    printf("%u %u %lu %d %g\\n", QUARTERS_MODEL_BYTES, (unsigned)((uintptr_t)quarters_model % 16), sum,
           QUARTERS_ARENA_BYTES > 0, (double)QUARTERS_INPUT_0_SCALE);
    return 0;
}
"""
ALLOCATE = """\
import sys
from tflite_micro.python.tflite_micro import runtime
runtime.Interpreter.from_bytes(open(sys.argv[1], "rb").read(), arena_size=64 << 20).print_allocations()
"""


@pytest.fixture(scope="session")
def tflite(repository) -> bytes:
    """The digits model of `edgekit/demo`, converted with `--quantize int8-static`."""
    return (repository / "tests/edgekit/package/digits.tflite").read_bytes()


@pytest.fixture
def tiny(make_bundle, tflite):
    """A bundle with this model as its only variant."""
    with open_bundle(make_bundle()) as opened:
        variant = opened.manifest.variants[0]
    binding = TensorBinding(0, "x", "int8", 0.5, 3)
    int8 = replace(variant, name="litert-int8-static", engine="litert", scheme="int8-static", inputs=(binding,))
    return make_bundle(variants=(int8,), artifact=tflite)


def checksum(data: bytes) -> int:
    total = 0
    for byte in data:
        total = total * 31 % 1000003 + byte
    return total


@pytest.mark.needs_cc
@pytest.mark.parametrize("compiler", [("cc", "-std=c11"), ("cc", "-std=c++11", "-x", "c++")], ids=["c", "c++"])
def test_it_compiles_and_is_the_model(write, call, tiny, tflite, compiler):
    folder = write("c-array", "quarters", of=tiny)
    (folder / "main.c").write_text(MAIN)
    strict = ("-Wall", "-Wextra", "-Werror", "-pedantic", "-o", "main", "main.c", "quarters_model.c")
    done = call(*compiler, *strict, *(["-lstdc++"] if "c++" in compiler else []), cwd=folder)
    assert done.returncode == 0, done.stdout
    assert call(folder / "main").stdout.split() == [str(len(tflite)), "0", str(checksum(tflite)), "1", "0.5"]


@pytest.mark.needs_judges
def test_the_arena_estimate_is_close_to_that_of_tflite_micro(call, judges, repository, tflite, tmp_path):
    (tmp_path / "digits.tflite").write_bytes(tflite)
    done = call(judges / "python", "-c", ALLOCATE, tmp_path / "digits.tflite")
    assert done.returncode == 0, done.stdout
    total, head = (
        int(re.search(rf"Arena allocation {word} (\d+) bytes", done.stdout)[1]) for word in ("total", "head")
    )
    arena = estimate(tflite)
    assert arena.activation_bytes == head
    assert total <= arena.total_bytes <= 1.5 * total + 2048


@pytest.mark.needs_judges
@pytest.mark.needs_data
@pytest.mark.parametrize("name", ["image_classification/pretrainedResnet_quant", "keyword_spotting/kws_ref_model"])
def test_the_arena_of_real_models(call, judges, shared_data, name):
    model = shared_data / f"mlperf_tiny/{name}.tflite"
    said = call(judges / "python", "-c", ALLOCATE, model).stdout
    total = int(re.search(r"Arena allocation total (\d+) bytes", said)[1])
    assert total <= estimate(model.read_bytes()).total_bytes <= 1.25 * total


def test_a_bundle_without_a_tflite_is_refused(write):
    with pytest.raises(PlanError, match=r"no variant that is a plain \.tflite; it has none"):
        write("c-array", "quarters")


def test_a_missing_variant_is_refused(write, tiny):
    with pytest.raises(PlanError, match=r"no variant 'float' .* it has litert-int8-static"):
        write("c-array", "quarters", of=tiny, variant="float")


@pytest.mark.parametrize("data", [b"", b"TFL3", struct.pack("<I", 1 << 30), bytes(64), b"\xff" * 64])
def test_invalid_tflite_data_is_refused(data):
    with pytest.raises(ConversionError, match="cannot be read"):
        estimate(data)


def test_every_truncation_of_a_model_ends_in_an_estimate_or_is_refused(tflite):
    for length in range(0, len(tflite), 97):
        try:
            assert estimate(tflite[:length]).total_bytes < 1 << 40
        except ConversionError:
            continue


def test_the_source_is_the_same_each_time(write, tiny):
    one, two = (
        {path.name: path.read_bytes() for path in write("c-array", out, of=tiny).iterdir()} for out in ("one", "two")
    )
    assert one == two
    assert one
