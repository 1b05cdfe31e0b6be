"""FAB against the published code, run beside ours where it is installed: projections, distances, broken images."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from morel_jax.attacks.fab import FAB, FABTargeted
from morel_jax.attacks.hyperplane import PROJECTIONS
from tests.attacks.test_hyperplane import length, problems

pytestmark = pytest.mark.parity
theirs = pytest.importorskip("pyautoattack.fab_pt")
their_projections = pytest.importorskip("pyautoattack.fab_projections")

THEIR_NAMES = {"linf": "Linf", "l2": "L2"}
NORMS = pytest.mark.parametrize("norm", ["linf", "l2"])


class Network:
    """Two layers of random weights with a smooth bend, for both libraries, and images that it classifies rightly."""

    def __init__(self, pixels=36, hidden=64, classes=10, count=128, seed=0):
        random = np.random.default_rng(seed)
        self.first = random.normal(size=(pixels, hidden)).astype(np.float32) / 3
        self.second = random.normal(size=(hidden, classes)).astype(np.float32)
        self.x = random.random((count, 6, 6, 1)).astype(np.float32)
        self.y = np.array(np.argmax(self.jax(self.x), axis=-1))

    def jax(self, x):
        return jnp.tanh((x.reshape(x.shape[0], -1) - 0.5) @ self.first) @ self.second

    def torch(self, x):
        first, second = torch.from_numpy(self.first), torch.from_numpy(self.second)
        return torch.tanh((x.flatten(1) - 0.5) @ first) @ second


NETWORK = Network()


@pytest.fixture(autouse=True, scope="module")
def _exact_products():
    with jax.default_matmul_precision("highest"):
        yield


@jax.jit
def ours(attack, x, y):
    return attack.run(NETWORK.jax, jax.random.key(0), x, y)


def published(norm, **options):
    return theirs.FABAttack_PT(NETWORK.torch, norm=THEIR_NAMES[norm], device="cpu", **options)


@NORMS
@pytest.mark.parametrize("size", [2, 30, 784])
def test_projections(norm, size):
    """Theirs in float64: in float32 some are off by 3e-4, ours are not."""
    x, w, b = problems(size=size)
    w = np.where(np.abs(w) < 1e-7, 0, w)  # The published L2 projection takes weights below 1e-8 for 0.
    moves = np.asarray(PROJECTIONS[norm](x, w, b), np.float64)
    project = {"linf": their_projections.projection_linf, "l2": their_projections.projection_l2}[norm]
    expected = project(*(torch.from_numpy(a).double() for a in (x, w, b))).numpy()

    def off(moves):
        return np.abs(((x + moves).astype(np.float64) * w).sum(-1) - b) / np.maximum(np.abs(w).sum(-1), 1e-12)

    np.testing.assert_allclose(off(moves), off(expected), atol=1e-5)
    np.testing.assert_allclose(length(moves, norm), length(expected, norm), atol=1e-5, rtol=1e-5)


@NORMS
def test_distances_of_an_untargeted_run(norm):
    x, y = NETWORK.x, NETWORK.y
    state = ours(FAB(0.1, num_steps=20, norm=norm, thorough=True), x, y)
    found = published(norm, n_iter=20, eps=0.1).attack_single_run(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    expected = length((found - x).reshape(len(x), -1), norm)
    assert np.isfinite(state.best_distance).all()
    assert (expected > 0).all()
    # Rounding leads a few examples elsewhere: a step that just misses the boundary is no candidate.
    assert (np.abs(state.best_distance / expected - 1) < 1e-3).mean() > 0.97
    assert abs(np.mean(state.best_distance / expected) - 1) < 1e-3


@NORMS
@pytest.mark.parametrize("targeted", [False, True])
def test_broken_images(norm, targeted):
    """At the radius that breaks about half of them, with no restart, so that nothing is random."""
    x, y = NETWORK.x, NETWORK.y
    epsilon = {"linf": 0.02, "l2": 0.1}[norm]
    attack = FABTargeted(epsilon, num_steps=20, norm=norm) if targeted else FAB(epsilon, num_steps=20, norm=norm)
    broken = np.asarray(ours(attack, x, y).found)
    x_adv = published(norm, n_iter=20, eps=epsilon, targeted=targeted).perturb(
        torch.from_numpy(x), torch.from_numpy(y))
    expected = NETWORK.torch(x_adv).argmax(1).numpy() != y
    assert 0.2 < expected.mean() < 0.8
    assert (broken != expected).sum() <= 1
