"""Gradients of every example of a batch, with respect to parameters and to images."""
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from morel_jax.attacks.types import Labels, Logits, LogitsFn, Points, Values
from morel_jax.gradients.geometry import norms
from morel_jax.losses import cross_entropy

Loss = Callable[[Logits, Labels], Values]


def _single(loss_fn: Callable[..., Values]) -> Callable[..., Array]:
    """The loss of one example, from that of a batch."""
    def loss(params: PyTree, *example: Array) -> Array:
        return loss_fn(params, *(part[None] for part in example))[0]

    return loss


def parameter_gradients(loss_fn: Callable[..., Values], params: PyTree, *batch: Array) -> PyTree:
    """The gradient of each example's loss with respect to the parameters.

    Args:
        loss_fn: (params, x, y, ...) -> float[n]. No example may depend on another: BatchNorm with running statistics,
            no contrastive loss. It is called with batches of one.
        batch: arrays[n, ...], such as x and y.

    Returns:
        Pytree like ``params`` with a leading axis n, in n times the parameters' memory.
    """
    return jax.vmap(jax.grad(_single(loss_fn)), in_axes=(None, *(0 for _ in batch)))(params, *batch)


def parameter_gradient_norms(loss_fn: Callable[..., Values], params: PyTree, *batch: Array,
                             batch_size: int = 8) -> Values:
    """L2 norm, over all parameters, of each example's gradient, in the loss's units per unit of the parameters.

    Args:
        loss_fn, params, batch: as in :func:`parameter_gradients`.
        batch_size: gradients held in memory at a time; static.
    """
    gradient = jax.grad(_single(loss_fn))
    return jax.lax.map(lambda example: optax.tree.norm(gradient(params, *example)), batch, batch_size=batch_size)


def input_gradients(logits_fn: LogitsFn, x: Points, y: Labels, loss: Loss = cross_entropy) -> Points:
    """The gradient of each example's loss with respect to its image, in the loss's units per pixel unit of [0, 1].

    Args:
        logits_fn: no image's logits may depend on another image.
        x: images in [0, 1].
        y: labels.
    """
    # A sum, as a mean would divide each gradient by the batch size.
    return jax.grad(lambda x: jnp.sum(loss(logits_fn(x), y)))(x)


def input_gradient_norms(logits_fn: LogitsFn, x: Points, y: Labels, loss: Loss = cross_entropy,
                         norm: str = "l1") -> Values:
    """Norm of each example's input gradient: to first order, the loss gained by moving the image by one unit.

    Args:
        logits_fn, x, y, loss: as in :func:`input_gradients`.
        norm: of the gradient, ``l1``, ``l2`` or ``linf``; static. It is the dual of the perturbation's norm: ``l1``
            tells what a perturbation of Linf size 1 gains, ``l2`` one of L2 size 1.

    Raises:
        ValueError: an unknown norm.
    """
    return norms(input_gradients(logits_fn, x, y, loss), norm)
