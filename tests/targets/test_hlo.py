import jax
import jax.numpy as jnp
import pytest

from morel_jax.targets import hlo, kernels

# A TPU's text: no number of turns, and what the condition compares with is a constant of its own.
TPU = """\
HloModule jit_f, is_scheduled=true

%less (p: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(10)
  %p = (s32[]{:T(128)}, f32[8]{0:T(8,128)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%until (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %j = s32[] get-tuple-element(%p), index=2
  ROOT %lt = pred[] compare(%i, %j), direction=LT
}

%turn (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]) parameter(0)
  %x = f32[8] get-tuple-element(%p), index=1
  %y = f32[8] sine(%x)
  ROOT %t = (s32[], f32[8]) tuple(%i, %y)
}

%step (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %two = s32[]{:T(128)} constant(2)
  %first = s32[]{:T(128)} copy(%two)
  %carried = (s32[]{:T(128)}, f32[8]{0:T(8,128)S(1)}) tuple(%first, %x)
  ROOT %inner = (s32[]{:T(128)}, f32[8]{0:T(8,128)S(1)}) while(%carried), condition=%less, body=%turn
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0:T(8,128)} parameter(0)
  %outer = (s32[], f32[8]) while(%start), condition=%until, body=%step
  ROOT %r = f32[8] get-tuple-element(%outer), index=1
}
"""


def test_turns_are_read_from_a_condition():
    sine = next(one for one in hlo.executions(hlo.parse(TPU)) if one.instruction.opcode == "sine")
    assert sine.loops == (("outer", None), ("inner", 8))
    assert (sine.count, sine.instruction.operands, list(sine.computation)) == (8, ["x"], ["p", "x", "y", "t"])
    less = hlo.executions(hlo.parse(TPU), ("condition", "body"))
    assert [one.instruction.name for one in less].count("lt") == 2


def test_the_programs_of_this_jax():
    """Turns and operations are what was written, whatever the platform prints."""
    def f(x, n):
        inner = lambda i, x: jnp.sin(x) @ x  # noqa: E731
        return jax.lax.fori_loop(0, n, lambda i, x: jax.lax.fori_loop(0, 7, inner, x) * 2, x)

    text = jax.jit(f).lower(jnp.ones((33, 33)), 3).compile().as_text()
    module = hlo.parse(text)
    found = [one for one in kernels.launched(module) if kernels.kind(module, one.instruction) == "matrix product"]
    assert [[turns for _, turns in one.loops] for one in found] == [[None, 7]]


def test_types():
    assert hlo.size_in_bytes("(f32[2,3]{1,0}, /*index=1*/(bf16[4], pred[<=5]), u32[], token[])") == 24 + 8 + 5 + 4
    assert hlo.entries("(f32[2,3]{1,0}, (bf16[4], u8[2]))") == ["f32[2,3]{1,0}", " (bf16[4], u8[2])"]
    assert hlo.arrays("bf16[2,128]{1,0:T(8,128)(2,1)S(1)}") == [("bf16", [2, 128])]


def test_no_module():
    with pytest.raises(ValueError, match="must be a compiled module with an ENTRY; it begins 'module @f'"):
        hlo.parse("module @f\n}")
