import jax
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from morel_jax.losses.multi_gradient import METHODS, cagrad, mgda, nash, pcgrad

RANDOM = np.random.default_rng(0)
PAIRS = [RANDOM.normal(size=(2, 5)) * np.array([[1.0], [scale]]) for scale in (1, 1, 0.1, 10, 1e-3) for _ in range(4)]


def gram(pair):
    return (pair @ pair.T).astype(np.float32)


@pytest.mark.parametrize("pair", PAIRS)
def test_mgda_is_the_shortest_vector_of_the_segment(pair):
    w = np.asarray(mgda(gram(pair)))
    shortest = minimize_scalar(lambda a: np.sum((a * pair[0] + (1 - a) * pair[1])**2), bounds=(0, 1), method="bounded",
                               options={"xatol": 1e-10}).fun
    assert np.sum((w @ pair)**2) == pytest.approx(shortest, rel=1e-3)
    assert (pair @ (w @ pair) >= -1e-5 * np.abs(pair).max()**2).all()  # It descends both.
    assert w.sum() == pytest.approx(1)


@pytest.mark.parametrize("pair", PAIRS)
def test_pcgrad_projects_as_the_algorithm_says(pair):
    projected = pair.copy()
    for i, j in ((0, 1), (1, 0)):
        inner = pair[i] @ pair[j]
        if inner < 0:
            projected[i] = pair[i] - inner / (pair[j] @ pair[j]) * pair[j]
    np.testing.assert_allclose(np.asarray(pcgrad(gram(pair))) @ pair, projected.sum(0), rtol=1e-3,
                               atol=1e-5 * np.abs(pair).max())


@pytest.mark.parametrize("pair", PAIRS)
def test_cagrad_maximises_the_worse_gain(pair):
    """Against every direction on the ball's boundary in the plane of both gradients, where the optimum lies."""
    direction = np.asarray(cagrad(gram(pair), 0.4)) @ pair
    mean = pair.mean(0)
    radius = 0.4 * np.linalg.norm(mean)
    assert np.linalg.norm(direction - mean) <= radius * 1.001
    basis = np.linalg.qr(pair.T)[0].T
    around = np.linspace(0, 2 * np.pi, 4001)
    best = max((pair @ (mean + radius * (np.cos(t) * basis[0] + np.sin(t) * basis[1]))).min() for t in around)
    assert (pair @ direction).min() >= best - 1e-3 * abs(best) - 1e-5 * np.abs(pair).max()**2


def test_cagrad_without_room_is_the_mean():
    np.testing.assert_allclose(cagrad(gram(PAIRS[0]), 0.0), [0.5, 0.5])


@pytest.mark.parametrize("pair", PAIRS)
def test_nash_solves_its_equation(pair):
    alpha = np.asarray(nash(gram(pair)), np.float64)
    assert (alpha > 0).all()
    np.testing.assert_allclose(gram(pair).astype(np.float64) @ alpha, 1 / alpha, rtol=1e-3)


@pytest.mark.parametrize("pair", PAIRS[:4])
def test_nash_maximises_the_product_of_gains(pair):
    """Over unit directions in the plane of both gradients."""
    direction = np.asarray(nash(gram(pair))) @ pair
    direction /= np.linalg.norm(direction)
    basis = np.linalg.qr(pair.T)[0].T

    def loss(t):
        gains = pair @ (np.cos(t) * basis[0] + np.sin(t) * basis[1])
        return -np.log(gains).sum() if (gains > 0).all() else np.inf

    starts = np.linspace(0, 2 * np.pi, 721)
    start = min(starts, key=loss)
    best = minimize_scalar(loss, bounds=(start - 0.01, start + 0.01), method="bounded").fun
    assert -np.log(pair @ direction).sum() == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("pair", [
    np.zeros((2, 3)), np.array([[1.0, 0, 0], [0, 0, 0]]), np.array([[1.0, 0, 0], [-1, 0, 0]]),
    np.array([[1.0, 2, 3], [1, 2, 3]]), np.array([[1e-12, 0, 0], [1e6, 1, 0]])])
def test_degenerate_gradients_stay_finite(name, pair):
    assert np.isfinite(jax.jit(METHODS[name])(gram(pair))).all()


@pytest.mark.parametrize("name", METHODS)
def test_symmetric_in_the_objectives(name):
    for pair in PAIRS[:6]:
        turned = METHODS[name](gram(pair[::-1]))
        np.testing.assert_allclose(METHODS[name](gram(pair))[::-1], turned, rtol=1e-3, atol=1e-4)
