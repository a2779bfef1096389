"""How a search ends, in which order a device prefers its variants, and the message when no candidate fits."""

import dataclasses
import os
import signal
import threading
import time

import pytest

from edgekit.candidate_search.quantize_auto import _in_order, _nothing_fits, _run_in_parallel
from edgekit.conversion.trial import MEASURED, Trial
from edgekit.plan.budget import Budget
from edgekit.plan.profiles import load_profile
from edgekit.plan.targets import VariantPlan
from edgekit_converters.recipe.recipe import Recipe
from edgekit_runtime.host.machine import architecture

BUDGET = Budget(max_drop=0.01)


def trial(engine, latency_ms):
    return Trial(engine, Recipe("int8-static"), MEASURED, "", 100, 0.9, 0.0, latency_ms, 1000)


def variant(engine, device):
    return VariantPlan(engine, device, "int8-static", "f32")


def test_the_fastest_variant_comes_first_on_the_same_processor():
    here = dataclasses.replace(load_profile("x86-64"), arch=architecture())
    mine = {variant("openvino", "cpu"): trial("openvino", 2.0), variant("litert", "cpu"): trial("litert", 1.0)}
    assert _in_order(mine, here, BUDGET) == ("litert-int8-static", "openvino-int8-static")
    elsewhere = dataclasses.replace(here, arch="riscv64")
    assert _in_order(mine, elsewhere, BUDGET) == ("openvino-int8-static", "litert-int8-static")
    by_size = dataclasses.replace(BUDGET, objective="size")
    assert _in_order(mine, here, by_size) == ("openvino-int8-static", "litert-int8-static")


def test_times_of_the_cpu_do_not_order_variants_of_an_npu():
    here = dataclasses.replace(load_profile("x86-64"), arch=architecture())
    mine = {variant("openvino", "npu"): trial("openvino", 2.0), variant("litert", "cpu"): trial("litert", 1.0)}
    assert _in_order(mine, here, BUDGET) == ("openvino-npu-int8-static", "litert-int8-static")


def test_the_message_names_the_closest_candidates_or_says_that_there_are_none():
    said = _nothing_fits(load_profile("intel-igpu"), [], BUDGET, "accuracy")
    assert "no candidate that it supports was evaluated in time" in said
    assert "the closest are:\n  litert int8-static: loses nothing" in _nothing_fits(
        load_profile("x86-64"), [trial("litert", 1.0)], BUDGET, "accuracy"
    )


@pytest.mark.usefixtures("takes_signals")
def test_ctrl_c_waits_for_running_candidates_and_a_second_one_does_not():
    for more in (0, 1):
        interrupted, over = threading.Event(), threading.Event()

        def search(artifact, more=more, interrupted=interrupted, over=over):
            time.sleep(0.3)  # who waits for the result has begun to
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupted.wait(30)
            if more:
                time.sleep(0.3)
                os.kill(os.getpid(), signal.SIGINT)
                over.wait(30)
            return artifact

        if more:
            with pytest.raises(KeyboardInterrupt):
                _run_in_parallel(search, ["litert"], interrupted, wait=False)
            assert not over.is_set()
            over.set()
        else:
            assert _run_in_parallel(search, ["litert"], interrupted, wait=False) == ["litert"]
