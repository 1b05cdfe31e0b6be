"""FAMO: weights of several losses that keep all of them falling at one rate, learnt from the losses alone."""
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

Losses = Float[Array, " num_objectives"]

# Added to a loss before its logarithm; the authors'.
_SMALLEST_LOSS = 1e-8
_ADAM = optax.scale_by_adam()


class FamoState(NamedTuple):
    """What FAMO carries from step to step: logits float[m], and what Adam knows of them."""
    logits: Losses
    adam: optax.ScaleByAdamState


def _above_zero(losses: Losses) -> Losses:
    return jnp.maximum(losses, 0) + _SMALLEST_LOSS


def famo_start(num_objectives: int) -> FamoState:
    """The state before the first step: equal weights."""
    logits = jnp.zeros(num_objectives, jnp.float32)
    return FamoState(logits, _ADAM.init(logits))


def famo_weights(state: FamoState, losses: Losses) -> Losses:
    """Weights of the losses' gradients in one step: of the steps that lower log L_i, softmaxed and scaled to sum 1.

        w_i = c z_i / L_i,   z = softmax(logits),   c = 1 / sum_i (z_i / L_i)

    Args:
        losses: L, at least 0; what is below counts as 0. An L of 0 takes all the weight.

    Reference: Liu et al., arXiv:2306.03792.
    """
    shares = jax.nn.softmax(state.logits).astype(losses.dtype) / _above_zero(losses)
    return jax.lax.stop_gradient(shares / jnp.sum(shares))


def famo_update(state: FamoState, before: Losses, after: Losses, learning_rate: ArrayLike = 0.025,
                weight_decay: ArrayLike = 1e-3) -> FamoState:
    """The state for the next step: more weight for losses whose logarithm fell less than the others'.

    Args:
        before, after: losses of the same examples before and after the step.
        learning_rate, weight_decay: Adam's, of the logits; the paper's. May be traced.

    Reference: Liu et al., arXiv:2306.03792.
    """
    fall = (jnp.log(_above_zero(before)) - jnp.log(_above_zero(after))).astype(state.logits.dtype)
    shares = jax.nn.softmax(state.logits)
    slope = shares * (fall - shares @ fall)  # The Jacobian of the softmax, times the fall.
    updates, adam = _ADAM.update(slope + weight_decay * state.logits, state.adam)
    return FamoState(state.logits - learning_rate * updates, adam)
