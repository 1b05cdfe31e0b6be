"""Ways to join objectives against TorchJD: weights in float64, on random, unequal and nearly parallel gradients."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchjd.aggregation as peer
from torchjd.linalg import QuadprogProjector
from torchjd.scalarization import FAMO, STCH

from morel_jax import losses

pytestmark = pytest.mark.parity


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def of_size(size, kind, seed=0):
    """``size`` gradients of ten parameters."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(size, 10))
    if kind == "a thousand apart":
        rows *= np.geomspace(1, 1e-3, size)[:, None]
    if kind.startswith("nearly"):
        rows = random.normal(size=10) + 1e-3 * rows
    if kind == "nearly opposed":
        rows[0] *= -1
    return rows


KINDS = ("random", "a thousand apart", "nearly parallel", "nearly opposed")
CASES = [(size, kind, seed) for size in (2, 3, 5) for kind in KINDS for seed in range(3)]


def check(name, weighting, rows):
    products = rows @ rows.T
    expected = weighting.gramian_weighting(torch.tensor(products)).numpy()
    found = jax.jit(losses.GRADIENT_METHODS[name])(products)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("size", "kind", "seed"), CASES)
def test_upgrad(size, kind, seed):
    """TorchJD adds 1e-4 of the trace to the diagonal unless told otherwise: with it we are given that Gram matrix."""
    rows = of_size(size, kind, seed)
    check("upgrad", peer.UPGrad(projector=QuadprogProjector(norm_eps=0, reg_eps=0)), rows)
    products = rows @ rows.T
    regular = products / np.trace(products) + 1e-4 * np.eye(size)
    expected = peer.UPGrad(projector=QuadprogProjector(norm_eps=0)).gramian_weighting(torch.tensor(products)).numpy()
    np.testing.assert_allclose(jax.jit(losses.upgrad)(regular), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("size", "kind", "seed"), CASES)
def test_imtl_g(size, kind, seed):
    check("imtl_g", peer.IMTLG(), of_size(size, kind, seed))


@pytest.mark.parametrize(("size", "kind", "seed"), [case for case in CASES if case[0] == 2])
def test_mgda_of_two(size, kind, seed):
    check("mgda", peer.MGDA(epsilon=1e-12), of_size(size, kind, seed))


@pytest.mark.parametrize("seed", range(3))
def test_mgda_of_three(seed):
    """Of gradients whose shortest vector is between all three, where TorchJD's Frank-Wolfe steps converge fast."""
    rows = 3 * np.eye(3, 10) + 0.5 * of_size(3, "random", seed)
    weighting = peer.MGDA(epsilon=1e-14, max_iters=2000)
    assert weighting.gramian_weighting(torch.tensor(rows @ rows.T)).min() > 0.05
    check("mgda", weighting, rows)


@pytest.mark.parametrize("seed", range(3))
def test_normalized_mgda_is_mgda_of_unit_gradients(seed):
    rows = 3 * np.eye(3, 10) + 0.5 * of_size(3, "random", seed)
    norms = np.linalg.norm(rows, axis=1)
    unit = torch.tensor(rows / norms[:, None])
    expected = peer.MGDA(epsilon=1e-14, max_iters=2000).gramian_weighting(unit @ unit.T).numpy() / norms
    np.testing.assert_allclose(losses.mgda_normalized(jnp.asarray(rows @ rows.T)), expected, rtol=1e-5)


@pytest.mark.parametrize(("size", "kind", "seed"), [case for case in CASES if case[0] < 5])
def test_pcgrad(size, kind, seed, monkeypatch):
    """The mean over the orders; TorchJD draws one for each gradient."""
    products = (rows := of_size(size, kind, seed)) @ rows.T
    drawn = []
    for order in (np.arange(size), np.arange(size)[::-1].copy()):
        monkeypatch.setattr(torch, "randperm", lambda _, order=order: torch.tensor(order))
        drawn.append(peer.PCGrad().gramian_weighting(torch.tensor(products)).numpy())
    expected = np.mean(drawn, axis=0)
    np.testing.assert_allclose(jax.jit(losses.pcgrad)(products), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("mu", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("size", [2, 3])
def test_smooth_tchebycheff(size, mu):
    random = np.random.default_rng(size)
    values, preference, reference = random.uniform(1, 4, size), random.dirichlet(np.ones(size)), random.random(size)
    tensor = torch.tensor(values, requires_grad=True)
    expected = STCH(mu, torch.tensor(preference), torch.tensor(reference))(tensor)
    expected.backward()
    found, gradient = jax.value_and_grad(losses.smooth_tchebycheff)(jnp.asarray(values), preference, reference, mu)
    np.testing.assert_allclose(found, expected.item(), rtol=1e-10)
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("size", [2, 3])
def test_famo(size):
    """Thirty steps: weights of each, and what is learnt from it."""
    random = np.random.default_rng(size)
    other, state = FAMO(size), losses.famo_start(size)
    update = jax.jit(losses.famo_update)
    for _ in range(30):
        before, after = random.uniform(0.1, 5, (2, size)).astype(np.float32)
        tensor = torch.tensor(before, requires_grad=True)
        other(tensor).backward()
        np.testing.assert_allclose(losses.famo_weights(state, jnp.asarray(before)), tensor.grad.numpy(), rtol=1e-4)
        other.update(torch.tensor(after))
        state = update(state, before, after)
    assert np.ptp(state.logits) > 0.01
