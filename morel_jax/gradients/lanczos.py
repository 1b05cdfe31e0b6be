"""Eigenvalues of a symmetric operator that is known only by its products with vectors, which are pytrees."""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree


@struct.dataclass
class Eigenpairs:
    """Some eigenvalues of a symmetric operator.

    Attributes:
        values: float[count].
        vectors: pytree like the operator's vectors with a leading axis ``count``; orthonormal.
        residuals: float[count], ``|A v - lambda v|``: some eigenvalue of A is no farther than this from lambda.
    """
    values: jax.Array
    vectors: jax.Array
    residuals: jax.Array


# Which Ritz values come first.
ORDERS = {
    "largest": lambda values: jnp.argsort(-values),
    "smallest": jnp.argsort,
    "magnitude": lambda values: jnp.argsort(-jnp.abs(values)),
}


def _random_unit(key: Key[Array, ""], like: PyTree) -> PyTree:
    """A pytree like ``like`` of length 1, uniform over directions."""
    # Drawn as one array: for every array of a network XLA would compile a generator of its own.
    shapes, unravel = ravel_pytree(jax.tree.map(jnp.zeros_like, like))
    vector = jax.random.normal(key, shapes.shape, shapes.dtype)
    return unravel(vector / jnp.linalg.norm(vector))


def _coefficients(basis: PyTree, vector: PyTree) -> Float[Array, " rows"]:
    """Inner products of the rows of ``basis`` (leading axis) with ``vector``."""
    products: Any = jax.tree.leaves(jax.tree.map(
        lambda rows, v: jnp.tensordot(rows.reshape(rows.shape[0], -1), v.ravel(), axes=1,
                                      precision=jax.lax.Precision.HIGHEST), basis, vector))
    return sum(products)


def _combine(coefficients: Float[Array, "... rows"], basis: PyTree) -> PyTree:
    """Sums of the rows of ``basis``, weighted by the coefficients."""
    return jax.tree.map(
        lambda rows: jnp.tensordot(coefficients, rows, axes=1, precision=jax.lax.Precision.HIGHEST), basis)


def _orthogonalise(vector: PyTree, basis: PyTree) -> PyTree:
    # Twice is enough: the second pass removes what rounding left in the first.
    for _ in range(2):
        vector = optax.tree.sub(vector, _combine(_coefficients(basis, vector), basis))
    return vector


def lanczos(operator: Callable[[PyTree], PyTree], key: Key[Array, ""], like: PyTree, num_steps: int, count: int = 1,
            which: str = "largest") -> Eigenpairs:
    """Lanczos's method with full reorthogonalisation.

    Where the Krylov space of the start is exhausted (few distinct eigenvalues, low rank), it continues from a new
    random vector. With ``num_steps`` = dimension it finds every eigenvalue as often as it occurs.

    Args:
        operator: symmetric and linear, to a pytree like its argument; called once per step, in a loop.
        key: for the random start.
        like: float arrays of one dtype, with the shapes of the operator's vectors.
        num_steps: size of the Krylov space, at most the dimension; static. All its vectors are kept: num_steps times
            the memory of ``like``. Extreme eigenvalues are found first.
        count: eigenpairs wanted; static.
        which: ``largest``, ``smallest`` or ``magnitude``, the order of the result; static.

    Raises:
        ValueError: an unknown ``which``; not 1 <= count <= num_steps <= dimension.

    Reference: Golub and Van Loan, Matrix Computations, chapter on Lanczos methods.
    """
    if which not in ORDERS:
        raise ValueError(f"which must be one of {', '.join(ORDERS)}; got {which!r}.")
    dimension = sum(leaf.size for leaf in jax.tree.leaves(like))
    if not 1 <= count <= num_steps <= dimension:
        raise ValueError("count and num_steps must keep 1 <= count <= num_steps <= the operator's dimension, "
                         f"{dimension}; got count {count} and num_steps {num_steps}.")
    start_key, key = jax.random.split(key)
    start = _random_unit(start_key, like)
    dtype = jax.tree.leaves(start)[0].dtype
    basis = jax.tree.map(lambda leaf: jnp.zeros((num_steps, *leaf.shape), leaf.dtype), start)

    def step(i: Array, carry: tuple[PyTree, PyTree, Array, Array]) -> tuple[PyTree, PyTree, Array, Array]:
        basis, vector, alphas, betas = carry
        basis = jax.tree.map(lambda rows, row: rows.at[i].set(row), basis, vector)
        image = operator(vector)
        alphas = alphas.at[i].set(optax.tree.vdot(vector, image))
        rest = _orthogonalise(image, basis)
        beta = optax.tree.norm(rest)
        scale = jnp.maximum(jnp.max(jnp.abs(alphas)), jnp.max(betas))
        used_up = beta <= 100 * jnp.finfo(dtype).eps * scale
        rest = jax.lax.cond(
            used_up, lambda: _orthogonalise(_random_unit(jax.random.fold_in(key, i), like), basis), lambda: rest)
        # Zero once the basis spans the whole space, after the last step.
        length = optax.tree.norm(rest)
        vector = optax.tree.scale(1 / jnp.where(length == 0, 1, length), rest)
        return basis, vector, alphas, betas.at[i].set(jnp.where(used_up, 0, beta))

    zeros = jnp.zeros(num_steps, dtype)
    basis, _, alphas, betas = jax.lax.fori_loop(0, num_steps, step, (basis, start, zeros, zeros))
    tridiagonal = jnp.diag(alphas) + jnp.diag(betas[:-1], 1) + jnp.diag(betas[:-1], -1)
    values, rotation = jnp.linalg.eigh(tridiagonal)
    chosen = ORDERS[which](values)[:count]
    values, rotation = values[chosen], rotation[:, chosen]
    return Eigenpairs(values, _combine(rotation.T, basis), jnp.abs(betas[-1] * rotation[-1]))


def power_iteration(operator: Callable[[PyTree], PyTree], key: Key[Array, ""], like: PyTree,
                    num_steps: int) -> Eigenpairs:
    """Power iteration: the eigenvalue of largest magnitude, in the memory of three vectors.

    Args:
        operator, key, like: as in :func:`lanczos`.
        num_steps: products with the operator; static. Each shrinks the vector's error by the ratio of the two largest
            magnitudes, and the value's by its square. A tie of lambda and -lambda shows as a large residual.

    Returns:
        One eigenpair; with eigenvalue 0 if the operator maps the random start to zero.
    """
    def step(_: Array, vector: PyTree) -> PyTree:
        image = operator(vector)
        length = optax.tree.norm(image)
        # Where the image is zero, the previous vector is an eigenvector already.
        return jax.tree.map(lambda new, old: jnp.where(length > 0, new / jnp.where(length > 0, length, 1), old),
                            image, vector)

    vector = jax.lax.fori_loop(0, num_steps - 1, step, _random_unit(key, like))
    image = operator(vector)
    value = optax.tree.vdot(vector, image)
    residual = optax.tree.norm(optax.tree.add_scale(image, -value, vector))
    return Eigenpairs(value[None], jax.tree.map(lambda leaf: leaf[None], vector), residual[None])
