"""Second derivatives of a loss in its parameters and in its images: products, and extreme eigenvalues.

A relu network is linear in its images piece by piece, so all input curvature comes from the loss on the logits.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from morel_jax.attacks.keys import example_keys
from morel_jax.attacks.types import KeyOrKeys, Labels, LogitsFn, Points
from morel_jax.gradients.lanczos import Eigenpairs, lanczos, power_iteration
from morel_jax.gradients.per_example import Loss
from morel_jax.losses import cross_entropy


def hessian_vector_product(loss: Callable[[PyTree], Float[Array, ""]], params: PyTree, vector: PyTree) -> PyTree:
    """The Hessian of ``loss`` at ``params`` times a vector like them, forward over reverse.

    It costs about two gradients; the Hessian is never formed.

    Reference: Pearlmutter, Neural Computation 6 (1994), 147-160.
    """
    return jax.jvp(jax.grad(loss), (params,), (vector,))[1]


def hessian_eigenpairs(loss: Callable[[PyTree], Float[Array, ""]], params: PyTree, key: Key[Array, ""], count: int = 1,
                       num_steps: int = 20, which: str = "largest") -> Eigenpairs:
    """Extreme eigenvalues of the Hessian in the parameters, by Lanczos's method.

    Args:
        loss: over a batch that stays the same.
        params: arrays of one dtype.
        key: for the random start.
        count, num_steps, which: as in :func:`lanczos`, with its errors; static.
    """
    return lanczos(lambda vector: hessian_vector_product(loss, params, vector), key, params, num_steps, count, which)


def sharpness(loss: Callable[[PyTree], Float[Array, ""]], params: PyTree, key: Key[Array, ""],
              num_steps: int = 20) -> Eigenpairs:
    """The eigenvalue of the Hessian in the parameters that is largest in magnitude, by power iteration.

    Args:
        loss, params, key: as in :func:`hessian_eigenpairs`.
        num_steps: Hessian-vector products; static.

    Returns:
        One eigenpair, less exact than by Lanczos's method with as many products, but in less memory.
    """
    return power_iteration(lambda vector: hessian_vector_product(loss, params, vector), key, params, num_steps)


def input_hessian_vector_product(logits_fn: LogitsFn, x: Points, y: Labels, vector: Points,
                                 loss: Loss = cross_entropy) -> Points:
    """Each example's Hessian in its image times its own ``vector``; arguments as in :func:`input_gradients`."""
    return hessian_vector_product(lambda x: jnp.sum(loss(logits_fn(x), y)), x, vector)


def input_hessian_eigenpairs(logits_fn: LogitsFn, key: KeyOrKeys, x: Points, y: Labels, count: int = 1,
                             num_steps: int = 10, which: str = "largest", loss: Loss = cross_entropy) -> Eigenpairs:
    """Extreme eigenvalues of each example's Hessian in its image.

    Args:
        logits_fn, x, y, loss: as in :func:`input_gradients`.
        key: one key, or one per example.
        count, num_steps, which: as in :func:`lanczos`, over the dimension of an image; static.

    Returns:
        :class:`Eigenpairs` with a leading axis n: values float[n, count], vectors float[n, count, ...] in the shape of
        images, residuals float[n, count].

    Reference: Moosavi-Dezfooli et al., arXiv:1811.09716, who find that adversarial training makes them smaller.
    """
    def single(key: Key[Array, ""], image: Array, label: Array) -> Eigenpairs:
        def product(vector: Array) -> Array:
            return input_hessian_vector_product(logits_fn, image[None], label[None], vector[None], loss)[0]

        return lanczos(product, key, image, num_steps, count, which)

    return jax.vmap(single)(example_keys(key, x.shape[0]), x, y)
