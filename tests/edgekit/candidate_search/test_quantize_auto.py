"""How a race is ended, which of a device's variants comes first after it, and what is said when there is none."""

import dataclasses
import os
import signal
import threading
import time

import pytest

from edgekit.candidate_search.quantize_auto import _in_order, _nothing, _side_by_side
from edgekit.conversion.trial import MEASURED, Trial
from edgekit.plan.budget import Budget
from edgekit.plan.plan import VariantPlan
from edgekit.plan.profiles import load_profile
from edgekit_converters.recipe.recipe import Recipe
from edgekit_runtime.placement.requirements import machine

BUDGET = Budget(max_drop=0.01)


def trial(engine, latency_ms):
    return Trial(engine, Recipe("int8-static"), MEASURED, "", 100, 0.9, 0.0, latency_ms, 1000)


def variant(engine, device):
    return VariantPlan(engine, device, "int8-static", "f32")


def test_what_was_fastest_here_comes_first_where_it_ran_on_such_a_processor():
    here = dataclasses.replace(load_profile("x86-64"), arch=machine())
    mine = {variant("openvino", "cpu"): trial("openvino", 2.0), variant("litert", "cpu"): trial("litert", 1.0)}
    assert _in_order(mine, here, BUDGET) == ("litert-int8-static", "openvino-int8-static")
    elsewhere = dataclasses.replace(here, arch="riscv64")
    assert _in_order(mine, elsewhere, BUDGET) == ("openvino-int8-static", "litert-int8-static")
    by_size = dataclasses.replace(BUDGET, objective="size")
    assert _in_order(mine, here, by_size) == ("openvino-int8-static", "litert-int8-static")


def test_the_time_of_a_processor_says_nothing_of_an_npu():
    here = dataclasses.replace(load_profile("x86-64"), arch=machine())
    mine = {variant("openvino", "npu"): trial("openvino", 2.0), variant("litert", "cpu"): trial("litert", 1.0)}
    assert _in_order(mine, here, BUDGET) == ("openvino-npu-int8-static", "litert-int8-static")


def test_a_device_that_can_do_nothing_that_was_evaluated_is_told_so():
    said = _nothing(load_profile("intel-igpu"), [], BUDGET, "accuracy")
    assert "nothing that it can do was evaluated in time" in said
    assert "nearest are:\n  litert int8-static: loses nothing" in _nothing(
        load_profile("x86-64"), [trial("litert", 1.0)], BUDGET, "accuracy"
    )


@pytest.mark.usefixtures("takes_signals")
def test_ctrl_c_waits_for_what_is_being_tried_and_a_second_one_for_nothing():
    for more in (0, 1):
        interrupted, over = threading.Event(), threading.Event()

        def race(artifact, more=more, interrupted=interrupted, over=over):
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
                _side_by_side(race, ["litert"], interrupted, wait=False)
            assert not over.is_set()
            over.set()
        else:
            assert _side_by_side(race, ["litert"], interrupted, wait=False) == ["litert"]
