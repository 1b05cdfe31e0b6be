"""Methods that combine the gradients of several objectives into one direction, w_1 g_1 + ... + w_m g_m.

They need only the Gram matrix of inner products g_i.g_j, see :func:`gram`. Weights have its dtype and are finite if it
is. Lengths may differ by many orders: what is solved is scaled first.
"""
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from morel_jax.losses.complementarity import solve_nonnegative

Gram = Float[Array, "m m"]
Weights = Float[Array, " m"]

# Steps of the golden section, each of which leaves 0.618 of an interval: past float32's precision.
_SECTIONS = 40
_GOLDEN = (5**0.5 - 1) / 2
# Halvings of CAGrad's interval for more than two objectives, and its end in units of the longest gradient.
_HALVINGS, _FARTHEST = 40, 1e3
# Newton steps of Nash-MTL; and its largest weight on gradients of unit length, 1 / sqrt(1 + cos) at cos = -0.999.
_NEWTON_STEPS = 30
_SMALLEST_GAIN = 0.001


def gram(gradients: PyTree) -> Gram:
    """Inner products of the objectives' gradients over all parameters, in float32 or what is wider.

    Args:
        gradients: pytree of float[m, ...].
    """
    rows = (leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(gradients))
    # Small differences of large products matter, so an accelerator must not round them.
    products: Any = (jnp.matmul(leaf, leaf.T, precision=jax.lax.Precision.HIGHEST,
                                preferred_element_type=jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in rows)
    return sum(products)


def _tiny(gram: Gram) -> np.floating:
    return jnp.finfo(gram.dtype).tiny


def _norms(gram: Gram) -> Weights:
    return jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0))


def _scaled(gram: Gram) -> tuple[Weights, Weights, Gram]:
    """(lengths, their inverses, cosines); a zero gradient has the inverse 0 and cosines of 0, with itself too."""
    norms = _norms(gram)
    inverses = jnp.where(norms > 0, 1 / jnp.where(norms > 0, norms, 1), 0)
    # One product after the other: the product of two inverses may overflow.
    return norms, inverses, jnp.clip(gram * inverses[:, None] * inverses, -1, 1)


def _ratios(norms: Weights) -> Float[Array, "m m"]:
    """norms[k] / norms[i] at [i, k], and 1 on the diagonal; 0 where the divisor is 0."""
    whole = jnp.where(norms > 0, norms, 1)
    ratios = jnp.where(norms[:, None] > 0, norms / whole[:, None], 0)
    return jnp.where(jnp.eye(len(norms), dtype=bool), 1, ratios)


def _shortest(gram: Gram) -> Weights:
    """Weights in the simplex of the shortest vector between any number of gradients."""
    norms, _, cosines = _scaled(gram)
    smallest = jnp.min(norms)
    relative = jnp.where(norms > smallest, smallest / jnp.where(norms > 0, norms, 1), 1)
    # Where the hull holds 0, the solution is large rather than infinite, as the program adds to the diagonal.
    weights = relative * solve_nonnegative(cosines, -relative)
    return weights / jnp.sum(weights)


def mgda(gram: Gram) -> Weights:
    """Multiple gradient descent: the shortest vector between the gradients, which descends on all objectives.

        min_w |sum_i w_i g_i|   with w_i >= 0 and sum_i w_i = 1;   for two objectives
        w = (a, 1 - a),   a = clip((g_2 - g_1).g_2 / |g_1 - g_2|^2, 0, 1)

    A gradient much shorter than the others is itself the shortest vector: see :func:`mgda_normalized`.

    Returns:
        Weights of at least 0, of sum 1; halves where two gradients are equal.

    Reference: Desideri, C. R. Acad. Sci. Paris 350 (2012); for deep networks Sener and Koltun, arXiv:1810.04650, Eq. 4.
    """
    if len(gram) != 2:
        return _shortest(gram)
    distance = gram[0, 0] - 2 * gram[0, 1] + gram[1, 1]
    first = jnp.where(distance > 0, (gram[1, 1] - gram[0, 1]) / jnp.maximum(distance, _tiny(gram)), 0.5)
    first = jnp.clip(first, 0, 1)
    return jnp.stack([first, 1 - first])


def mgda_normalized(gram: Gram) -> Weights:
    """:func:`mgda` of gradients scaled to length 1, of which none is the shortest for being short.

    The direction does not depend on the scale of any objective, and its length is at most 1: the learning rate alone
    sets the step. For two objectives it is the mean of the two unit gradients, along the directions of
    :func:`imtl_g` and :func:`nash`.

    Returns:
        ``a_i / |g_i|``, where a are MGDA's weights; 0 of a zero gradient.

    Reference: Desideri, C. R. Acad. Sci. Paris 350 (2012), on normalised gradients.
    """
    norms, inverses, cosines = _scaled(gram)
    weights = solve_nonnegative(cosines, -jnp.where(norms > 0, 1, 0).astype(norms.dtype))
    return inverses * weights / jnp.maximum(jnp.sum(weights), _tiny(gram))


def pcgrad(gram: Gram) -> Weights:
    """Projecting conflicting gradients: the sum, after each loses its part along every other that it conflicts with.

        w = (1 - g_1.g_2 / |g_1|^2, 1 - g_1.g_2 / |g_2|^2) where g_1.g_2 < 0, else (1, 1)

    For more than two objectives the order of the others counts, which the authors draw at random. We take the mean over
    the orders that begin at each of the others in turn: for three objectives the mean over all.

    Returns:
        Weights of at least 1.

    Reference: Yu et al., arXiv:2001.06782, Algorithm 1; with two objectives its random order changes nothing.
    """
    if len(gram) != 2:
        return _projected_in_turn(gram)
    norms = jnp.stack([gram[0, 0], gram[1, 1]])
    conflict = jnp.minimum(gram[0, 1], 0)
    return jnp.where(norms > 0, 1 - conflict / jnp.maximum(norms, _tiny(gram)), 1)


def _projected_in_turn(gram: Gram) -> Weights:
    norms, _, cosines = _scaled(gram)
    identity = jnp.eye(len(gram), dtype=gram.dtype)
    total = jnp.zeros_like(gram)  # Row i: what the unit gradients get from unit gradient i.
    for i, start in itertools.product(range(len(gram)), range(len(gram) - 1)):
        others = [j for j in range(len(gram)) if j != i]
        row = identity[i]
        for j in others[start:] + others[:start]:
            row = row - jnp.minimum(cosines[j] @ row, 0) * identity[j]
        total = total.at[i].add(row / (len(gram) - 1))
    return jnp.sum(_ratios(norms) * total.T, axis=1)


def upgrad(gram: Gram) -> Weights:
    """UPGrad: the mean of the gradients, each projected onto the cone of directions in which no objective rises.

        d = 1/m sum_i pi(g_i),   pi(g) = the nearest v to g with v.g_j >= 0 for all j

    It does not conflict with any objective, and it is linear in the scale of each, so that a short gradient has a short
    part in it. For two objectives it is half of :func:`pcgrad`.

    Returns:
        Weights of at least 1/m.

    Reference: Quinton and Rey, arXiv:2406.16232, whose Proposition 1 has the quadratic program that is solved.
    """
    norms, _, cosines = _scaled(gram)
    # Of unit gradients; each column of ``added`` is what one projection adds to the others' weights.
    added = jax.vmap(solve_nonnegative, in_axes=(None, 1), out_axes=1)(cosines, cosines)
    return (1 + jnp.sum(_ratios(norms) * added, axis=1)) / len(gram)


def imtl_g(gram: Gram) -> Weights:
    """Impartial multi-task learning: the direction whose projections onto all unit gradients are equal.

        d.g_i / |g_i| = d.g_j / |g_j| for all i, j,   d = sum_i w_i g_i,   sum_i w_i = 1

    The direction does not depend on the scale of any objective, but its length does: it is near the shortest
    gradient's. With more than two objectives weights may be negative and d need not descend.

    Returns:
        Weights of sum 1; 0 of a zero gradient. Where gradients leave no such direction, the projections are equal in
        least squares; where no sum of 1 can be made of that, all weights are 0.

    Reference: Liu et al., "Towards impartial multi-task learning", ICLR 2021; with a pseudo-inverse where gradients
    depend on one another, as Quinton and Rey, arXiv:2406.16232, have it.
    """
    norms, _, cosines = _scaled(gram)
    is_there = (norms > 0).astype(norms.dtype)
    if len(gram) == 2:
        solution = is_there  # Both projections are the same by symmetry.
    else:
        solution = jnp.linalg.pinv(cosines, hermitian=True) @ is_there
    smallest = jnp.min(jnp.where(norms > 0, norms, jnp.inf))
    weights = solution * jnp.where(norms > 0, smallest / jnp.where(norms > 0, norms, 1), 0)
    total = jnp.sum(weights)
    is_determined = jnp.abs(total) > 10 * jnp.finfo(gram.dtype).eps * jnp.sum(jnp.abs(weights))
    return jnp.where(is_determined, weights / jnp.where(is_determined, total, 1), 0)


def cagrad(gram: Gram, closeness: ArrayLike = 0.4) -> Weights:
    """Conflict-averse gradient: the direction near the mean gradient along which the worst objective falls fastest.

        max_d min_i g_i.d   with |d - g_0| <= c |g_0|,   g_0 = 1/m sum_i g_i
        d = g_0 + c |g_0| / |g_u| g_u,   u in the simplex minimising g_u.g_0 + c |g_0| |g_u|

    For two objectives the dual is convex in one number, which a golden section finds. For more, u is of the shortest
    vector between the gradients g_i + t g_0, and a bisection finds the t at which ``|g_u| = t c |g_0|``.

    Args:
        closeness: c in [0, 1); 0 is the mean gradient; may be traced. 0.4 is the authors' for two tasks.

    Returns:
        Weights of at least 1/m.

    Reference: Liu et al., arXiv:2110.14048, Eqs. 3 and 5.
    """
    # The weights do not depend on the gradients' size.
    scale = jnp.maximum(jnp.max(jnp.abs(gram)), _tiny(gram))
    gram, mean = gram / scale, jnp.full(len(gram), 1 / len(gram), gram.dtype)
    radius = closeness * jnp.sqrt(jnp.maximum(mean @ gram @ mean, 0))

    def length(u: Weights) -> Float[Array, ""]:
        return jnp.sqrt(jnp.maximum(u @ gram @ u, 0))

    u = _dual_of_two(gram, mean, radius, length) if len(gram) == 2 else _dual(gram, mean, radius, length)
    size = length(u)
    return mean + jnp.where(size > 0, radius / jnp.maximum(size, _tiny(gram)), 0) * u


def _dual_of_two(gram: Gram, mean: Weights, radius: ArrayLike, length: Callable[[Weights], Array]) -> Weights:
    def weights(first: Float[Array, ""]) -> Weights:
        return jnp.stack([first, 1 - first])

    def dual(first: Float[Array, ""]) -> Float[Array, ""]:
        u = weights(first)
        return u @ gram @ mean + radius * length(u)

    def narrow(_: int, interval: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = interval
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        keep_left = dual(left) < dual(right)
        return jnp.where(keep_left, low, left), jnp.where(keep_left, right, high)

    ends = jnp.zeros_like(gram[0, 0]), jnp.ones_like(gram[0, 0])  # Like gram, in a shard_map too.
    low, high = jax.lax.fori_loop(0, _SECTIONS, narrow, ends)
    return weights((low + high) / 2)


def _dual(gram: Gram, mean: Weights, radius: ArrayLike, length: Callable[[Weights], Array]) -> Weights:
    along = gram @ mean

    def weights(t: Float[Array, ""]) -> Weights:
        return _shortest(gram + t * (along[:, None] + along) + t**2 * (mean @ along))

    def narrow(_: int, interval: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = interval
        middle = (low + high) / 2
        is_short = length(weights(middle)) < radius * middle
        return jnp.where(is_short, low, middle), jnp.where(is_short, middle, high)

    longest = jnp.max(_norms(gram))
    end = jnp.minimum(longest / jnp.maximum(radius, _tiny(gram)), _FARTHEST)
    low, high = jax.lax.fori_loop(0, _HALVINGS, narrow, (jnp.zeros_like(end), end))
    return weights((low + high) / 2)


def nash(gram: Gram) -> Weights:
    """Nash-MTL's bargaining solution: the direction in which the product of all gains is largest.

        G alpha = 1 / alpha;   for two objectives  alpha_i = 1 / (|g_i| sqrt(1 + cos(g_1, g_2)))

    Returns:
        Positive weights. The cosine counts as at least -0.999, as opposed gradients leave no gain to bargain for; with
        more than two objectives the weights of unit gradients are at most what that gives, 31.6. A zero gradient counts
        as the smallest positive one.

    Reference: Navon et al., arXiv:2202.01017, Eq. 3, solved in closed form, or by Newton's method.
    """
    smallest = jnp.sqrt(jnp.asarray(_tiny(gram)))
    if len(gram) != 2:
        norms, _, cosines = _scaled(gram)
        # A zero gradient is alone: its equation is then beta = 1 / beta.
        cosines = jnp.where(jnp.eye(len(gram), dtype=bool), 1, cosines)
        return _bargain(cosines) / jnp.maximum(norms, smallest)
    first, second = (jnp.maximum(jnp.sqrt(gram[i, i]), smallest) for i in (0, 1))
    cosine = jnp.clip(gram[0, 1] / first / second, -0.999, 1)
    weight = 1 / jnp.sqrt(1 + cosine)
    return jnp.stack([weight / first, weight / second])


def _bargain(cosines: Gram) -> Weights:
    """beta > 0 with C beta = 1 / beta, the least of beta.C beta / 2 - sum_i log beta_i, which is self-concordant."""
    def step(_: int, beta: Weights) -> Weights:
        slope = cosines @ beta - 1 / beta
        curvature = cosines + jnp.diag(1 / beta**2)
        ahead = jnp.linalg.solve(curvature, slope)
        decrement = jnp.sqrt(jnp.maximum(slope @ ahead, 0))
        # The damped step stays positive and surely descends; near the end the whole one converges quadratically.
        moved = beta - ahead / jnp.where(decrement < 0.25, 1, 1 + decrement)
        return jnp.clip(moved, beta / 1e3, 1 / jnp.sqrt(_SMALLEST_GAIN))

    return jax.lax.fori_loop(0, _NEWTON_STEPS, step, jnp.ones_like(cosines[0]))


METHODS: dict[str, Callable[[Gram], Weights]] = {
    "mgda": mgda, "mgda_normalized": mgda_normalized, "pcgrad": pcgrad, "cagrad": cagrad, "nash": nash,
    "upgrad": upgrad, "imtl_g": imtl_g}
