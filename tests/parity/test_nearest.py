"""Foolbox's minimum-norm attacks on two networks, against ours."""
import foolbox
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.attacks import CWL2, DDN, FMN
from morel_jax.attacks.norms import norm
from morel_jax.evaluation import load
from morel_jax.interop import foolbox as adapter

pytestmark = pytest.mark.parity
COUNT = 200


class L2FMN(foolbox.attacks.L2FMNAttack):
    """Foolbox 3.3.4 divides a norm by itself where it should project, so that nothing is projected into the ball."""

    def project(self, x, x0, epsilon):
        length = foolbox.devutils.flatten(x - x0).norms.l2(axis=-1).maximum(1e-12)
        return x0 + (x - x0) * foolbox.devutils.atleast_kd((epsilon / length).minimum(1), x.ndim)


@pytest.fixture(scope="module", params=["morel", "undefended"])
def network(request, quickstart):
    """(logits_fn, Foolbox's model of it, the images that it classifies correctly and their labels)."""
    from morel_jax.evaluation.trained import load_variables

    folder = quickstart[0] / request.param
    logits_fn, _ = load(folder)
    test = load_variables(folder, "best")[-1].test
    x, y = jnp.float32(test.images[:2 * COUNT]) / 255, jnp.asarray(test.labels[:2 * COUNT])
    right = np.flatnonzero(np.argmax(logits_fn(x), -1) == y)[:COUNT]
    assert len(right) == COUNT
    return logits_fn, adapter.model(logits_fn), x[right], y[right]


def distances(network, theirs, ours):
    """Distances of both codes' images, infinite where there is none."""
    logits_fn, model, x, y = network
    raw, _, found = theirs(model, x, y, epsilons=None)
    found = found & raw.any(axis=(1, 2, 3))  # Its CW returns a black image where it has found none.
    expected = np.where(found, norm(ours.norm).distance(raw, x), np.inf)
    _, distance = jax.jit(lambda attack: attack.minimal(logits_fn, jax.random.key(0), x, y))(ours)
    return expected, np.asarray(distance)


@pytest.mark.parametrize(("theirs", "ours"), [
    (foolbox.attacks.LInfFMNAttack(), FMN()),
    (foolbox.attacks.DDNAttack(), DDN()),
    (foolbox.attacks.L2CarliniWagnerAttack(5, 40, stepsize=0.1, initial_const=1.0, abort_early=False),
     CWL2(num_searches=5, max_iter=40, learning_rate=0.1, initial_const=1.0, abort_early=False)),
], ids=["fmn-linf", "ddn", "cw-l2"])
def test_distances(network, theirs, ours):
    expected, distance = distances(network, theirs, ours)
    both = np.isfinite(expected) & np.isfinite(distance)
    print(np.isfinite(expected).sum(), np.isfinite(distance).sum(), np.median(distance) / np.median(expected),
          distance[both].mean() / expected[both].mean(), np.median(distance))
    assert np.isfinite(distance).sum() >= np.isfinite(expected).sum()
    np.testing.assert_allclose(np.median(distance), np.median(expected), rtol=0.01)
    assert distance[both].mean() <= 1.05 * expected[both].mean()


def test_fmn_in_l2(network):
    """Where the published rule of the radius reaches the boundary at all, and its projection is put right."""
    expected, distance = distances(network, L2FMN(), FMN(norm="l2"))
    both = np.isfinite(expected)
    print(both.sum(), np.isfinite(distance).sum(), np.median(distance[both] / expected[both]),
          distance[both].mean() / expected[both].mean(), np.median(distance))
    assert np.isfinite(distance).all()
    assert both.any()
    assert np.median(distance[both] / expected[both]) <= 1.01
    assert distance[both].mean() <= 1.05 * expected[both].mean()
