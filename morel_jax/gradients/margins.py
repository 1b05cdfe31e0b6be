"""Distances to the decision boundary, estimated from gradients. Estimates, neither attacks nor certificates."""
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from morel_jax.attacks.keys import example_keys, fold_in_name
from morel_jax.attacks.norms import norm as norm_named
from morel_jax.attacks.types import KeyOrKeys, Labels, Logits, LogitsFn, Points, Values
from morel_jax.gradients.geometry import column
from morel_jax.losses.classification import label_mask, pick


@struct.dataclass
class Margins:
    """Attributes:
        margin: float[n], the estimated distance to the nearest boundary, in pixel units.
        nearest: int32[n], the class behind that boundary.
    """
    margin: jax.Array
    nearest: jax.Array


def _leads(logits: Logits, y: Labels) -> Logits:
    """By how much the label's logit exceeds each class's."""
    return pick(logits, label_mask(logits, y))[:, None] - logits


def _lead_and_slope(logits_fn: LogitsFn, x: Points, y: Labels, rival: Int[Array, ""]) -> tuple[Values, Points]:
    """The lead over one class, and its input gradient."""
    lead, pull_back = jax.vjp(lambda x: _leads(logits_fn(x), y)[:, rival], x)
    return lead, pull_back(jnp.ones_like(lead))[0]


def _ratio(lead: Array, slope: Array) -> Array:
    """lead / slope; where the slope is zero, infinite with the lead's sign, or 0 if both are zero; NaN stays NaN."""
    flat = jnp.where((lead == 0) | jnp.isnan(lead), lead, jnp.copysign(jnp.inf, lead))
    return jnp.where(slope == 0, flat, lead / jnp.where(slope == 0, 1, slope))


def _nearest(ratios: Float[Array, "classes n"], y: Labels) -> Margins:
    """:class:`Margins` of ratios by class, without the label's own."""
    own = jnp.arange(ratios.shape[0])[:, None] == y
    # Finite, so that an infinitely far rival still comes before the label itself.
    order = jnp.where(own, jnp.inf, jnp.minimum(ratios, jnp.finfo(ratios.dtype).max))
    return Margins(jnp.min(jnp.where(own, jnp.inf, ratios), axis=0), jnp.argmin(order, axis=0).astype(jnp.int32))


def _classes(logits_fn: LogitsFn, x: Points) -> Int[Array, " classes"]:
    classes = jax.eval_shape(logits_fn, x).shape[-1]
    if classes < 2:
        raise ValueError(f"logits_fn must give at least two classes; got {classes}.")
    return jnp.arange(classes)


def linearised_margins(logits_fn: LogitsFn, x: Points, y: Labels, norm: str = "linf") -> Margins:
    """First-order distance to the decision boundary: the nearest of the linearised boundaries.

        min_{j != y} (z_y - z_j) / |grad_x (z_y - z_j)|_*

    with the dual norm below: L1 for Linf, L2 for L2. Exact for a linear network, the box [0, 1] aside.

    Args:
        logits_fn, x, y: as in :func:`input_gradients`.
        norm: ``linf`` or ``l2``, in which the distance is measured; static.

    Returns:
        A negative margin, of a misclassified image, is the distance back over the farthest boundary that was crossed.
        It is infinite where no boundary has a slope. The classes take one pass each, in turn.

    Raises:
        ValueError: an unknown norm, or one class only.

    Reference: the step of DeepFool, Moosavi-Dezfooli et al., arXiv:1511.04599.
    """
    dual = norm_named(norm).dual

    def ratio(rival: Int[Array, ""]) -> Values:
        lead, slope = _lead_and_slope(logits_fn, x, y, rival)
        return _ratio(lead, dual(slope))

    return _nearest(jax.lax.map(ratio, _classes(logits_fn, x)), y)


def lipschitz_bounds(logits_fn: LogitsFn, key: KeyOrKeys, x: Points, y: Labels, epsilon: float | Array,
                     step_size: float | Array, num_steps: int = 10, norm: str = "linf") -> Logits:
    """Local Lipschitz constants of the label's lead over every class, from below.

    The largest dual norm of grad_x (z_y - z_j) at the image and at all points of two searches in the ball and in
    [0, 1]. They start at a random point and follow the lead down and up by steepest descent: a relu network is linear
    piece by piece, so the norm of its gradient has no slope to climb.

    Args:
        logits_fn, x, y: as in :func:`input_gradients`.
        key: one key, or one per example.
        epsilon, step_size: radius and length of a step in pixel units of ``norm``; may be traced.
        num_steps: steps of each search; static.
        norm: ``linf`` or ``l2``, of ball and steps; static.

    Returns:
        In logit units per pixel unit; 0 at the label. Each class takes 2 (num_steps + 1) + 1 passes.

    Raises:
        ValueError: an unknown norm, or one class only.
    """
    ball = norm_named(norm)
    keys = example_keys(key, x.shape[0])
    radii = jax.vmap(lambda key: jax.random.uniform(key, (), x.dtype))(fold_in_name(keys, "radius"))
    start = x + column(radii, x) * (ball.random_boundary(keys, x, epsilon) - x)

    def bound(rival: Int[Array, ""]) -> Values:
        def size(point: Points) -> tuple[Values, Points]:
            slope = _lead_and_slope(logits_fn, point, y, rival)[1]
            return ball.dual(slope), slope

        def search(way: Array) -> Values:
            def step(_: Array, carry: tuple[Points, Values]) -> tuple[Points, Values]:
                point, largest = carry
                steepness, slope = size(point)
                further = ball.project(point + way * step_size * ball.direction(slope), x, epsilon)
                return further, jnp.maximum(largest, steepness)

            point, largest = jax.lax.fori_loop(0, num_steps, step, (start, size(x)[0]))
            return jnp.maximum(largest, size(point)[0])

        # Both ways, as a slope that grows one way falls the other.
        return jnp.max(jax.lax.map(search, jnp.array([-1, 1], x.dtype)), axis=0)

    return jax.lax.map(bound, _classes(logits_fn, x)).T


def lipschitz_margins(logits_fn: LogitsFn, key: KeyOrKeys, x: Points, y: Labels, epsilon: float | Array,
                      step_size: float | Array, num_steps: int = 10, norm: str = "linf") -> Margins:
    """Distance to the decision boundary by local Lipschitz constants.

        min_{j != y} (z_y - z_j) / L_j,   at most epsilon, as L_j holds within that radius

    With the true constants no nearer point is misclassified. :func:`lipschitz_bounds` finds them from below, so the
    margin is too large where it missed the steepest point.

    Arguments and errors as in :func:`lipschitz_bounds`.

    Returns:
        Margins in [-epsilon, epsilon]; negative where the image is misclassified.

    Reference: Weng et al., arXiv:1801.10578 (CLEVER), with the largest slope of a search, not an extreme value fitted
    to random points.
    """
    slopes = lipschitz_bounds(logits_fn, key, x, y, epsilon, step_size, num_steps, norm)
    margins = _nearest(_ratio(_leads(logits_fn(x), y), slopes).T, y)
    return Margins(jnp.clip(margins.margin, -epsilon, epsilon), margins.nearest)
