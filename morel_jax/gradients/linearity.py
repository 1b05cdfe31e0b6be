"""How linear the loss is around an image. Where it is not, a few gradient steps say little about the worst case."""
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from morel_jax.attacks.keys import example_keys
from morel_jax.attacks.types import KeyOrKeys, Labels, LogitsFn, Points, Values
from morel_jax.gradients.geometry import column, cosines, flatten
from morel_jax.gradients.per_example import Loss, input_gradients
from morel_jax.losses import cross_entropy


@struct.dataclass
class LinearityError:
    """Attributes:
        error: float[n], the largest gap found between the loss and its linearisation, in the loss's units.
        delta: float[n, ...], the perturbation where it was found.
    """
    error: jax.Array
    delta: jax.Array


def _uniform(key: KeyOrKeys, x: Points, epsilon: float | Array) -> Points:
    keys = example_keys(key, x.shape[0])
    return epsilon * jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:], x.dtype, -1.0, 1.0))(keys)


def linearity_error(logits_fn: LogitsFn, key: KeyOrKeys, x: Points, y: Labels, epsilon: float | Array,
                    step_size: float | Array, num_steps: int = 10, loss: Loss = cross_entropy) -> LinearityError:
    """Local linearity: how far the loss departs from its tangent in the Linf ball.

        gamma = max_{|delta|_inf <= epsilon} |l(x + delta) - l(x) - <delta, grad l(x)>|

    The result is a lower bound, found by ascent along signs from a random point. As published, the perturbed images may
    leave [0, 1].

    Args:
        logits_fn, x, y, loss: as in :func:`input_gradients`.
        key: one key, or one per example.
        epsilon, step_size: radius and length of a step in pixel units; may be traced.
        num_steps: steps of ascent; static.

    Returns:
        The largest error over the start and every step.

    Reference: Qin et al., arXiv:1907.02610, whose regulariser penalises gamma.
    """
    value = loss(logits_fn(x), y)
    slope = input_gradients(logits_fn, x, y, loss)

    def gap(delta: Points) -> Values:
        linear = jnp.sum(flatten(delta * slope), axis=-1)
        return jnp.abs(loss(logits_fn(x + delta), y) - value - linear)

    def climb(_: Array, carry: tuple[Points, LinearityError]) -> tuple[Points, LinearityError]:
        delta, best = carry
        gaps, pull_back = jax.vjp(gap, delta)
        (gradient,) = pull_back(jnp.ones_like(gaps))
        best = _better(best, gaps, delta)
        return jnp.clip(delta + step_size * jnp.sign(gradient), -epsilon, epsilon), best

    start = _uniform(key, x, epsilon)
    nothing = LinearityError(jnp.zeros_like(value), jnp.zeros_like(x))
    delta, best = jax.lax.fori_loop(0, num_steps, climb, (start, nothing))
    return _better(best, gap(delta), delta)


def _better(best: LinearityError, gaps: Values, delta: Points) -> LinearityError:
    wider = ~(gaps <= best.error)  # A loss that is NaN is not linear.
    return LinearityError(jnp.where(wider, gaps, best.error), jnp.where(column(wider, delta), delta, best.delta))


def gradient_alignment(logits_fn: LogitsFn, key: KeyOrKeys, x: Points, y: Labels, epsilon: float | Array,
                       loss: Loss = cross_entropy) -> Values:
    """Cosine between the input gradients at an image and at a random point near it.

        cos(grad l(x), grad l(x + eta)),   eta ~ U([-epsilon, epsilon]^d)

    Args:
        logits_fn, key, x, y, loss: as in :func:`linearity_error`.
        epsilon: radius in pixel units; may be traced.

    Returns:
        In [-1, 1] up to rounding: 1 where the loss is linear, 0 where a gradient is zero. Differentiable; one minus its
        mean is the published regulariser.

    Reference: Andriushchenko and Flammarion, arXiv:2007.02617.
    """
    near = x + _uniform(key, x, epsilon)
    return cosines(input_gradients(logits_fn, x, y, loss), input_gradients(logits_fn, near, y, loss))
