import dataclasses

import pytest

from morel_jax.targets import hlo, roofline
from morel_jax.targets.devices import CHIPS
from tests.targets.test_kernels import GPU, MODULE, STEP

BY_NAME = {one.instruction.name: one for one in STEP}
H100 = CHIPS["h100"]


def test_bytes_are_operands_and_results():
    images, weights = 8 * 8 * 8 * 64 * 4, 64 * 3 * 3 * 64 * 4
    assert roofline.moved_bytes(MODULE, BY_NAME["conv"]) == 2 * images + weights
    assert roofline.moved_bytes(MODULE, BY_NAME["relu"]) == 3 * images
    assert roofline.moved_bytes(MODULE, BY_NAME["product"]) == 4 * (8 * 64 + 64 * 10 + 8)


def test_of_what_is_sliced_only_the_slice_is_read():
    assert roofline.moved_bytes(MODULE, BY_NAME["batch"]) == 2 * 8 * 8 * 8 * 3


def test_arrays_in_a_tpus_fast_memory_cost_nothing():
    module = hlo.parse(GPU.replace("%relu = f32[8,8,8,64]{3,2,1,0}", "%relu = f32[8,8,8,64]{3,2,1,0:T(8,128)S(1)}"))
    relu = next(one for one in hlo.executions(module) if one.instruction.name == "relu")
    assert roofline.moved_bytes(module, relu) == 2 * 8 * 8 * 8 * 64 * 4


@pytest.mark.parametrize("direction", ["Forward", "BackwardInput", "BackwardFilter"])
def test_a_convolution_and_its_gradients_are_the_same_arithmetic(direction):
    x, w, y = "f32[8,16,16,3]{3,2,1,0}", "f32[5,3,3,3]{3,2,1,0}", "f32[8,8,8,5]{3,2,1,0}"
    first, second, result = {"Forward": (x, w, y), "BackwardInput": (y, w, x), "BackwardFilter": (x, y, w)}[direction]
    text = f"""HloModule f

ENTRY %main (a: f32[8]) -> f32[8] {{
  %a = {first} parameter(0)
  %b = {second} parameter(1)
  ROOT %c = ({result}, u8[0]{{0}}) custom-call(%a, %b), window={{size=3x3 stride=2x2}}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$conv{direction}"
}}"""
    module = hlo.parse(text)
    flops = 2 * 8 * 8 * 8 * 5 * 3 * 3 * 3
    slow = dataclasses.replace(H100, peaks={"tf32": 1e9, "float32": 1e8, "bfloat16": 1e12}, bandwidth=1e30)
    found = roofline.estimate(module, [one for one in hlo.executions(module) if one.instruction.name == "c"], slow)
    assert found.product_seconds == pytest.approx(flops / 0.35e9)
    exact = hlo.parse(text.replace("window=", "operand_precision={highest,highest}, window="))
    found = roofline.estimate(exact, [one for one in hlo.executions(exact) if one.instruction.name == "c"], slow)
    assert found.product_seconds == pytest.approx(flops / 0.35e8)
    half = hlo.parse(text.replace("f32", "bf16"))
    found = roofline.estimate(half, [one for one in hlo.executions(half) if one.instruction.name == "c"], slow)
    assert found.product_seconds == pytest.approx(4e-6)


def test_a_product_within_a_fusion():
    slow = dataclasses.replace(H100, peaks={"tf32": 1e6}, bandwidth=1e30)
    found = roofline.estimate(MODULE, [BY_NAME["product"]], slow)
    assert found.product_seconds == pytest.approx(2 * 8 * 64 * 10 / 0.35e6)


def test_short_operations_take_their_floors_and_launches_as_often_as_they_run():
    found = roofline.estimate(MODULE, STEP, H100)
    assert found.product_seconds == pytest.approx(10 * 4e-6 + 2.2e-6)
    assert found.other_seconds == pytest.approx(18 * 2.2e-6)  # Of 30 operations all but those and the exchange.
    assert found.launch_seconds == pytest.approx(10 * 8e-6 + 19 * 2.5e-6)
    assert found.seconds == found.product_seconds + found.other_seconds
    assert "no exchanges" in found.assumptions


def test_a_tpu_has_no_launches_and_its_compilers_own_cycles():
    module = hlo.parse(GPU.replace("maximum(%x, %x)", 'maximum(%x, %x), backend_config={"estimated_cycles":"120"}'))
    relu = [one for one in hlo.executions(module) if one.instruction.name == "relu"]
    found = roofline.estimate(module, relu, CHIPS["tpu_v5e"])
    assert (found.launch_seconds, found.compiler_cycles) == (None, 1200)
    assert found.other_seconds == pytest.approx(10 * 3 * 8 * 8 * 8 * 64 * 4 / (0.85 * 819e9))
