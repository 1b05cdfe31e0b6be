"""Second derivatives of a loss in its parameters and in its images: products, and outer eigenvalues.

A relu network is linear in its images piece by piece: all input curvature comes from the loss on the logits.
"""
import jax
import jax.numpy as jnp

from morel_jax.attacks.keys import example_keys
from morel_jax.gradients.lanczos import lanczos, power_iteration
from morel_jax.losses import cross_entropy


def hessian_vector_product(loss, params, vector):
    """The Hessian of ``loss`` at ``params`` times a vector, forward over reverse.

    Args:
        loss: params -> float[].
        params: pytree of float arrays.
        vector: pytree like ``params``.

    Returns:
        Pytree like ``params``. It costs about two gradients, and the Hessian is never formed.

    Reference: Pearlmutter, Neural Computation 6 (1994), 147-160.
    """
    return jax.jvp(jax.grad(loss), (params,), (vector,))[1]


def hessian_eigenpairs(loss, params, key, count=1, num_steps=20, which="largest"):
    """Outer eigenvalues of the Hessian in the parameters, by Lanczos's method.

    Args:
        loss: params -> float[], over a batch that stays the same.
        params: pytree of float arrays, of one dtype.
        key: one key, for the random start.
        count, num_steps, which: as in :func:`morel_jax.gradients.lanczos.lanczos`; static.

    Returns:
        :class:`morel_jax.gradients.lanczos.Eigenpairs`.

    Raises:
        ValueError: as ``lanczos``.
    """
    return lanczos(lambda vector: hessian_vector_product(loss, params, vector), key, params, num_steps, count, which)


def sharpness(loss, params, key, num_steps=20):
    """The eigenvalue of largest size of the Hessian in the parameters, by power iteration.

    Args:
        loss, params, key: as in :func:`hessian_eigenpairs`.
        num_steps: Hessian-vector products; static.

    Returns:
        :class:`morel_jax.gradients.lanczos.Eigenpairs` with one entry; less exact than Lanczos's method for the same
        number of products, and without its memory.
    """
    return power_iteration(lambda vector: hessian_vector_product(loss, params, vector), key, params, num_steps)


def input_hessian_vector_product(logits_fn, x, y, vector, loss=cross_entropy):
    """Each example's Hessian in its image times a vector, for the whole batch at once.

    Args:
        logits_fn: images float[n, ...] -> logits float[n, classes]; no image's logits depend on another image.
        x: float[n, ...], images.
        y: int[n], labels.
        vector: float[n, ...], one a row.
        loss: (logits, y) -> float[n].

    Returns:
        float[n, ...].
    """
    return hessian_vector_product(lambda x: jnp.sum(loss(logits_fn(x), y)), x, vector)


def input_hessian_eigenpairs(logits_fn, key, x, y, count=1, num_steps=10, which="largest", loss=cross_entropy):
    """Outer eigenvalues of each example's Hessian in its image.

    Args:
        logits_fn, x, y, loss: as in :func:`input_hessian_vector_product`.
        key: one key, or keys[n], one an example.
        count, num_steps, which: as in :func:`morel_jax.gradients.lanczos.lanczos`; static.

    Returns:
        :class:`morel_jax.gradients.lanczos.Eigenpairs` with a leading axis n: values float[n, count], vectors
        float[n, count, ...] in the shape of images, residuals float[n, count].

    Raises:
        ValueError: as ``lanczos``, whose dimension is an image's size.

    Reference: Moosavi-Dezfooli et al., arXiv:1811.09716, who find that adversarial training makes them smaller.
    """
    def single(key, image, label):
        def product(vector):
            return input_hessian_vector_product(logits_fn, image[None], label[None], vector[None], loss)[0]

        return lanczos(product, key, image, num_steps, count, which)

    return jax.vmap(single)(example_keys(key, x.shape[0]), x, y)
