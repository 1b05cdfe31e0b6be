"""Command: ``python -m benchmarks.convolution``: 3x3 convolutions and their gradients inside a compiled loop.

For each shape, in turn and several rounds over: ``jax`` (``lax.conv_general_dilated`` and the gradients that JAX
derives), ``canonical`` (ours without Winograd's algorithm) and ``ours``. Prints a Markdown table of median
milliseconds.
"""
import argparse
import statistics
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.measure import Contender, environment, measure
from morel_jax.models import winograd
from morel_jax.models.convolution import LAYOUT, conv

_PADDING = ((1, 1), (1, 1))
_OPERATIONS = ("forward", "input gradient", "kernel gradient")
_SHAPES = ((32, 8), (32, 16), (32, 64), (16, 128), (8, 256), (4, 512))


def _jax_conv(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), _PADDING, dimension_numbers=LAYOUT)


def _ours(x, w):
    return conv(x, w, (1, 1), _PADDING)


def _operation(convolve, name):
    """(x, w, g) -> array; each linear in what it takes, so that no part can be left out."""
    if name == "forward":
        return lambda x, w, g: convolve(x, w)
    if name == "input gradient":
        return lambda x, w, g: jax.linear_transpose(lambda x: convolve(x, w), x)(g)[0]
    return lambda x, w, g: jax.linear_transpose(lambda w: convolve(x, w), w)(g)[0]


def _contender(label, convolve, name, operands, transformed):
    operation = _operation(convolve, name)

    def loop(steps, x, w, g):
        def body(_, carry):
            scale, total = carry
            result = operation(scale * x, w, scale * g)
            # The next step waits for this one.
            return 1.0 + 1e-9 * result.ravel()[0], total + result

        result = jax.eval_shape(operation, x, w, g)
        return lax.fori_loop(0, steps, body, (jnp.float32(1), jnp.zeros(result.shape, result.dtype)))[1]

    with mock.patch.object(winograd, "suits", winograd.suits if transformed else lambda *_: False):
        compiled = jax.jit(loop).lower(0, *operands).compile()
    return Contender(label, {"operation": name}, lambda steps: jax.block_until_ready(compiled(steps, *operands)),
                     lambda: True)


def main(argv=None):
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args(argv)
    found = environment("python -m benchmarks.convolution")
    print(f"{found['date']}, {found['processor']}, {found['processors_usable']} processors, jax "
          f"{found['packages']['jax']}; milliseconds, median of {options.rounds} rounds of {options.steps}.\n")
    print("| batch | image | channels | operation | jax | canonical | ours |\n|---|---|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    for batch in options.batch_sizes:
        for size, channels in _SHAPES:
            x, g = (jnp.asarray(rng.normal(size=(batch, size, size, channels)), jnp.float32) for _ in range(2))
            w = jnp.asarray(rng.normal(size=(3, 3, channels, channels)), jnp.float32)
            for name in _OPERATIONS:
                make = partial(_contender, name=name, operands=(x, w, g))
                contenders = [make("jax", _jax_conv, transformed=True), make("canonical", _ours, transformed=False),
                              make("ours", _ours, transformed=True)]
                seconds = measure(contenders, options.rounds, options.steps, settle=0.0)
                times = " | ".join(f"{1000 * statistics.median(value):.2f}" for value in seconds.values())
                print(f"| {batch} | {size}x{size} | {channels} | {name} | {times} |", flush=True)


if __name__ == "__main__":
    main()
