"""JAX's transformations through the library's networks and losses: against finite differences, or each other.

What the package's functions are made of. Networks in float64 where they compute in it throughout.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import losses
from tests.gradients.networks import TINY, cross_entropies, images_and_labels, network
from tests.models import quick_jit
from tests.small import mostly_slow

RANDOM = np.random.default_rng(0)
LABELS = np.int32([0, 1, 2, 1, 0])


def rows(width=3):
    return jnp.asarray(RANDOM.normal(size=(5, width)))


def of_logits(loss, **options):
    """A loss of both logits; TRADES's beside the attack's point, where its divergence is not at its minimum."""
    return lambda pair: jnp.mean(loss(*pair, LABELS, **options))


LOSSES = {
    "trades": (of_logits(losses.trades), 3),
    "mart": (of_logits(losses.mart), 3),
    "loat": (of_logits(losses.loat, phase=losses.LOAT_FIRST), 3),
    "loat_last": (of_logits(losses.loat, phase=losses.LOAT_LAST, base="trades"), 3),
    "cosine_alignment": (lambda pair: jnp.mean(losses.cosine_alignment(*pair)), 6),
    "multi_positive_contrastive": (
        lambda pair: jnp.sum(losses.multi_positive_contrastive(jnp.concatenate(pair), jnp.tile(LABELS, 2))), 6),
    "conic": (lambda pair: losses.conic(
        jnp.stack([jnp.mean(losses.cosine_alignment(*pair)), jnp.mean(losses.trades(*pair, LABELS))]),
        (0.3, 0.7), (0.1, 0.0), 0.05), 3),
}


@pytest.mark.parametrize("name", mostly_slow(LOSSES, "trades", "loat", "multi_positive_contrastive", "conic"))
def test_of_losses(name):
    """First and second derivatives along a line, and the Hessian: differences, jvp of grad, linearize, hessian."""
    loss, width = LOSSES[name]
    with jax.enable_x64(True):
        point, along = (tuple(rows(width) for _ in range(2)) for _ in range(2))

        @quick_jit
        def all_of_it(point, along):
            gradient = jax.grad(loss)
            slope, push = jax.linearize(loss, point)
            hessian = jax.hessian(loss)(point)
            product = [sum(jnp.tensordot(hessian[i][j], along[j], axes=2) for j in (0, 1)) for i in (0, 1)]
            return slope, push(along), gradient(point), jax.jvp(gradient, (point,), (along,))[1], product

        @quick_jit
        def beside(point, along):
            moved = tuple(p + 1e-5 * a for p, a in zip(point, along, strict=True))
            return loss(moved), jax.grad(loss)(moved)

        value, slope, gradient, curved, product = all_of_it(point, along)
        (up, up_gradient), (down, down_gradient) = (beside(point, tuple(sign * a for a in along)) for sign in (1, -1))
        np.testing.assert_allclose(slope, (up - down) / 2e-5, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(slope, sum(np.vdot(g, a) for g, a in zip(gradient, along, strict=True)), rtol=1e-9)
        np.testing.assert_allclose(value, quick_jit(loss)(point), rtol=1e-12)
        for i in (0, 1):
            numeric = (up_gradient[i] - down_gradient[i]) / 2e-5
            np.testing.assert_allclose(curved[i], numeric, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(product[i], curved[i], rtol=1e-8, atol=1e-10)
        assert max(np.abs(part).max() for part in curved) > 1e-3


def test_of_a_convnet_in_float64_as_differences():
    """Along one direction of weights and images together: slope, and Hessian-vector product, of the cross-entropy."""
    with jax.enable_x64(True):
        loss_fn, params = cross_entropies("convnet", "float64")
        x, y = images_and_labels(dtype=np.float64)
        point = (params, x)
        along = jax.tree.map(lambda leaf: RANDOM.normal(size=leaf.shape), point)

        def loss(point):
            return jnp.mean(loss_fn(*point, y))

        @quick_jit
        def all_of_it(point):
            value, push = jax.linearize(loss, point)
            gradient, curved = jax.jvp(jax.grad(loss), (point,), (along,))
            return value, push(along), gradient, curved

        value, slope, gradient, curved = all_of_it(point)
        step = 1e-6
        up, down = (all_of_it(jax.tree.map(lambda p, a, s=s: p + s * a, point, along)) for s in (step, -step))
        assert value.dtype == np.float64
        np.testing.assert_allclose(slope, (up[0] - down[0]) / 2 / step, rtol=1e-6)
        inner = sum(np.vdot(g, a) for g, a in zip(*map(jax.tree.leaves, (gradient, along)), strict=True))
        np.testing.assert_allclose(slope, inner, rtol=1e-9)
        numeric = jax.tree.map(lambda a, b: (a - b) / 2 / step, up[2], down[2])
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), curved, numeric)
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(curved)) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("kind", TINY)
def test_of_networks_against_each_other(kind):
    """jvp of grad as grad of the slope; vmap of grad as jacrev; linearize as jvp."""
    apply, params = network(kind)
    x, y = images_and_labels(2)
    along = jax.tree.map(lambda leaf: RANDOM.normal(size=leaf.shape).astype(np.float32), params)

    def of_each(params, x):
        outputs = apply(params, jnp.concatenate([x, 0.9 * x + 0.05]))
        return losses.mart(*jnp.split(outputs.logits, 2), y)

    def loss(params):
        return jnp.sum(of_each(params, x))

    def single(params, image, label):
        logits = apply(params, jnp.stack([image, 0.9 * image + 0.05])).logits
        return losses.mart(logits[:1], logits[1:], label[None])[0]

    @quick_jit
    def all_of_it(params):
        def slope(params):
            return jax.jvp(loss, (params,), (along,))[1]

        forward_over_reverse = jax.jvp(jax.grad(loss), (params,), (along,))[1]
        vmapped = jax.vmap(jax.grad(single), (None, 0, 0))(params, x, y)
        return ((jax.linearize(loss, params)[1](along), slope(params)),
                (forward_over_reverse, jax.grad(slope)(params)), (vmapped, jax.jacrev(of_each)(params, x)))

    for one, other in all_of_it(params):
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(other))
        assert largest > 0.01
        jax.tree.map(lambda a, b, atol=1e-4 * largest: np.testing.assert_allclose(a, b, rtol=1e-2, atol=atol),
                     one, other)


def test_the_hessian_of_a_head_is_symmetric_and_its_products_columns():
    apply, params = network("convnet")
    x, y = images_and_labels()

    def loss(kernel):
        head = params["linear"] | {"kernel": kernel}
        return jnp.mean(losses.cross_entropy(apply(params | {"linear": head}, x).logits, y))

    kernel = params["linear"]["kernel"]
    hessian, column = quick_jit(lambda k: (
        jax.hessian(loss)(k), jax.jvp(jax.grad(loss), (k,), (jnp.zeros_like(k).at[2, 1].set(1),))[1]))(kernel)
    flat = np.reshape(hessian, (kernel.size,) * 2)
    np.testing.assert_allclose(flat, flat.T, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(hessian[:, :, 2, 1], column, rtol=1e-4, atol=1e-6)
    # The cross-entropy is convex in the head's weights.
    assert np.linalg.eigvalsh(flat).min() > -1e-5
    assert np.abs(flat).max() > 1e-3
