"""Floating-point operations of a function, counted before it is compiled."""
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from morel_jax.models import convolution


def _array(variable: Any) -> ShapedArray:
    return variable.aval


def _dot(equation: JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = _array(equation.invars[0]).shape
    return _array(equation.outvars[0]).size * math.prod(left[axis] for axis in contracted)


def _conv(kernel: Any, output: Any) -> int:
    # Each output takes every tap of every input channel; the two gradients are the same products, summed otherwise.
    return _array(output).size * math.prod(_array(kernel).shape[-4:-1])


def _lax_conv(equation: JaxprEqn) -> int:
    # lax keeps the kernel as [outputs, inputs of a group, ...] by its own account of which axis is which.
    kernel, outputs = _array(equation.invars[1]), equation.params["dimension_numbers"].rhs_spec[0]
    return _array(equation.outvars[0]).size * (kernel.size // kernel.shape[outputs])


# Multiply-adds of what a network's time goes to.
_MULTIPLY_ADDS = {
    "dot_general": _dot,
    "conv_general_dilated": _lax_conv,
    convolution.forward_p.name: lambda equation: _conv(equation.invars[1], equation.outvars[0]),
    convolution.input_gradient_p.name: lambda equation: _conv(equation.invars[1], equation.invars[0]),
    convolution.kernel_gradient_p.name: lambda equation: _conv(equation.outvars[0], equation.invars[1]),
}


def _inner(equation: JaxprEqn) -> Iterator[Jaxpr]:
    for value in equation.params.values():
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


def _multiply_adds(jaxpr: Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in _MULTIPLY_ADDS:
            total += _MULTIPLY_ADDS[name](equation)
            continue
        inner = [_multiply_adds(inner) for inner in _inner(equation)]
        if name == "cond":
            total += max(inner)
        else:
            total += equation.params["length"] * sum(inner) if name == "scan" else sum(inner)
    return total


def count_flops(function: Callable, *arguments: Any) -> int:
    """FLOPs of the matrix products and convolutions in ``function``, whatever they compile to.

    A multiply-add counts as 2, zeros of a convolution's padding are multiplied too, and nothing else counts. A scan
    counts with all its turns, a ``while`` whose number of turns is not known with one, a conditional with its dearest
    branch.

    Args:
        function: traceable by JAX.
        arguments: arrays, or shapes (ShapeDtypeStruct).

    Returns:
        Over all devices.
    """
    return 2 * _multiply_adds(jax.make_jaxpr(function)(*arguments).jaxpr)
