import jax
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from morel_jax import losses
from morel_jax.losses.multi_gradient import METHODS, cagrad, mgda, nash, pcgrad

FAST = {name: jax.jit(method) for name, method in METHODS.items()}
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
    assert np.isfinite(FAST[name](gram(pair))).all()
    assert np.isfinite(FAST[name](gram(np.concatenate([pair, pair[:1]])))).all()
    assert np.isfinite(FAST[name](gram(np.concatenate([pair, [[0, 1e-3, 0]]])))).all()


@pytest.mark.parametrize("name", METHODS)
def test_symmetric_in_the_objectives(name):
    for pair in PAIRS[:6]:
        turned = FAST[name](gram(pair[::-1]))
        np.testing.assert_allclose(FAST[name](gram(pair))[::-1], turned, rtol=1e-3, atol=1e-4)


def triples():
    """Three gradients: at random, of lengths 1e3 apart, nearly parallel, and nearly opposed."""
    random = np.random.default_rng(1)
    for kind in range(4):
        for _ in range(3):
            rows = random.normal(size=(3, 6))
            if kind == 1:
                rows *= random.permutation([[1e-3], [1.0], [30.0]])
            if kind >= 2:
                rows = random.normal(size=6) + 1e-3 * rows
            if kind == 3:
                rows[random.integers(3)] *= -1
            yield rows


TRIPLES = list(triples())


@pytest.mark.parametrize("name", METHODS)
def test_methods_can_be_members_of_a_population(name):
    """Traced as a population's step is: loops must carry what varies over the devices."""
    mesh = jax.make_mesh((1,), ("member",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("member")
    for size in (2, 3):
        members = jax.shard_map(jax.vmap(METHODS[name]), mesh=mesh, in_specs=spec, out_specs=spec)
        shape = jax.eval_shape(members, jax.ShapeDtypeStruct((4, size, size), np.float32))
        assert (shape.shape, shape.dtype) == ((4, size), np.float32)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rows", TRIPLES)
def test_three_objectives_keep_each_methods_conditions(rows):
    """What defines each direction, whose weights two objectives have in closed form."""
    products = rows @ rows.T
    norms = np.sqrt(np.diag(products))
    w = {name: np.asarray(method(products)) for name, method in FAST.items()}
    d = {name: weights @ rows for name, weights in w.items()}
    # The shortest vector: no gradient has a smaller part along it than it has itself.
    for name, gradients in (("mgda", rows), ("mgda_normalized", rows / norms[:, None])):
        squared = d[name] @ d[name]
        assert (w[name] >= 0).all()
        assert (gradients @ d[name] >= squared * (1 - 1e-5) - 1e-12 * (gradients**2).sum(1).max()).all()
    assert w["mgda"].sum() == pytest.approx(1)
    assert (w["mgda_normalized"] * norms).sum() == pytest.approx(1)
    assert (rows @ d["upgrad"] >= -1e-9 * norms * np.linalg.norm(rows.mean(0))).all()
    projections = rows @ d["imtl_g"] / norms
    np.testing.assert_allclose(projections, projections.mean(), rtol=1e-5)
    assert w["imtl_g"].sum() == pytest.approx(1)
    mean = rows.mean(0)
    assert np.linalg.norm(d["cagrad"] - mean) == pytest.approx(0.4 * np.linalg.norm(mean), rel=1e-6)
    if not (rows @ rows.T < 0).any():
        np.testing.assert_allclose(w["pcgrad"], 1)
        np.testing.assert_allclose(w["upgrad"], 1 / 3)
    if w["nash"].max() * norms.max() < 31:
        np.testing.assert_allclose(products @ w["nash"], 1 / w["nash"], rtol=1e-8)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rows", TRIPLES[:6])
def test_cagrad_of_three_maximises_the_worst_gain(rows):
    direction = np.asarray(FAST["cagrad"](rows @ rows.T)) @ rows
    mean, basis = rows.mean(0), np.linalg.qr(rows.T)[0].T
    around = np.random.default_rng(0).normal(size=(20000, 3)) @ basis
    around *= 0.4 * np.linalg.norm(mean) / np.linalg.norm(around, axis=1, keepdims=True)
    assert (rows @ direction).min() >= ((mean + around) @ rows.T).min(1).max() - 1e-12


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_upgrad_is_the_mean_of_the_nearest_vectors_that_conflict_with_none():
    """By alternating projections onto the half-spaces (Dykstra)."""
    rows = np.random.default_rng(3).normal(size=(3, 3)) + np.array([[-1.0], [1.0], [1.0]])
    nearest = []
    for point in rows:
        v, corrections = point.copy(), np.zeros_like(rows)
        for _ in range(1000):
            for i, g in enumerate(rows):
                before = v + corrections[i]
                v = before - min(g @ before, 0) / (g @ g) * g
                corrections[i] = before - v
        nearest.append(v)
    assert np.abs(np.array(nearest) - rows).max() > 0.1  # Some conflict.
    np.testing.assert_allclose(np.asarray(FAST["upgrad"](rows @ rows.T)) @ rows, np.mean(nearest, 0), atol=1e-6)


def weights_of(name, rows):
    return np.asarray(FAST[name](gram(np.array(rows, float))))


@pytest.mark.parametrize(("name", "expected"), [
    ("mgda", [[1 / 3] * 3, [1 / 3] * 3, [1e-6, 1, 1e-6], [0.25, 0.5, 0.25]]),
    ("mgda_normalized", [[1 / 3] * 3, [1 / 3] * 3, [1 / 3, 1000 / 3, 1 / 3], [0.25, 0.5, 0.25]]),
    ("pcgrad", [[1] * 3, [1] * 3, [1] * 3, [1.5, 3, 1.5]]),
    ("upgrad", [[1 / 3] * 3, [1 / 3] * 3, [1 / 3] * 3, [0.5, 1, 0.5]]),
    ("imtl_g", [[1 / 3] * 3, [1 / 3] * 3, [1e-3 / 1.002, 1 / 1.002, 1e-3 / 1.002], [1, -1, 1]]),
    ("nash", [[1] * 3, [3**-0.5] * 3, [1, 1e3, 1], None]),
])
def test_three_objectives_by_hand(name, expected):
    """Orthogonal, equal, of lengths 1e3 apart, and two equal ones opposed to the third."""
    orthogonal = np.eye(3)
    cases = [orthogonal, np.ones((3, 3)) / 3**0.5, np.diag([1, 1e-3, 1]), [[1, 0, 0], [-1, 0, 0], [1, 0, 0]]]
    for rows, weights in zip(cases, expected, strict=True):
        if weights is not None:
            np.testing.assert_allclose(weights_of(name, rows), weights, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize(("name", "expected"), [
    ("mgda_normalized", [[0.5, 0.5], [0.5, 0.5], [0.5, 500], [0.5, 0.5], [1, 0]]),
    ("upgrad", [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [1, 1], [0.5, 0.5]]),
    ("imtl_g", [[0.5, 0.5], [0.5, 0.5], [1 / 1001, 1000 / 1001], [0.5, 0.5], [1, 0]]),
])
def test_two_objectives_by_hand(name, expected):
    """Orthogonal, equal, of lengths 1e3 apart, opposed, and one that is zero."""
    cases = [np.eye(2), [[1, 0], [1, 0]], [[1, 0], [0, 1e-3]], [[1, 0], [-1, 0]], [[1, 0], [0, 0]]]
    for rows, weights in zip(cases, expected, strict=True):
        np.testing.assert_allclose(weights_of(name, rows), weights, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("rows", [PAIRS[0], TRIPLES[0], TRIPLES[1]])
def test_what_each_method_promises_of_scales(rows):
    scales = np.array([1.0, 1e3, 0.03])[:len(rows)]
    scaled = rows * scales[:, None]
    for name in ("mgda_normalized", "nash", "imtl_g"):
        direction, other = weights_of(name, rows) @ rows, weights_of(name, scaled) @ scaled
        if name == "imtl_g":
            direction, other = direction / np.linalg.norm(direction), other / np.linalg.norm(other)
        np.testing.assert_allclose(other, direction, rtol=1e-3, atol=1e-4 * np.abs(direction).max())
    for name in METHODS:  # All at once: a matter of the unit alone.
        together = weights_of(name, 1e3 * rows)
        power = 1e-3 if name in ("mgda_normalized", "nash") else 1
        np.testing.assert_allclose(together, power * weights_of(name, rows), rtol=1e-3, atol=1e-5 * power)


def test_two_objectives_are_three_of_which_one_is_zero():
    """The closed forms and the programs for any number agree."""
    for pair in PAIRS:
        three = np.concatenate([pair, np.zeros((1, 5))])
        for name, factor in (("upgrad", 2 / 3), ("pcgrad", 1), ("nash", 1), ("imtl_g", 1), ("mgda_normalized", 1)):
            np.testing.assert_allclose(weights_of(name, three)[:2], factor * weights_of(name, pair), rtol=1e-3)
    np.testing.assert_allclose(weights_of("upgrad", PAIRS[1]), weights_of("pcgrad", PAIRS[1]) / 2, rtol=1e-5)


def test_mgda_of_two_equal_gradients_and_another_are_those_of_two():
    for pair in PAIRS[:4]:
        three = gram(pair[[0, 1, 1]])
        merged = FAST["mgda"](three)
        np.testing.assert_allclose([merged[0], merged[1] + merged[2]], mgda(gram(pair)), atol=2e-3)


def test_gram_of_bfloat16_gradients_is_summed_in_float32():
    rows = np.random.default_rng(0).normal(size=(3, 4000))
    tree = {"a": jax.numpy.asarray(rows[:, :3000].reshape(3, 30, 100), jax.numpy.bfloat16),
            "b": jax.numpy.asarray(rows[:, 3000:], jax.numpy.bfloat16)}
    rounded = np.concatenate([np.asarray(leaf, np.float64).reshape(3, -1) for leaf in tree.values()], axis=1)
    found = losses.gram(tree)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, rounded @ rounded.T, rtol=1e-4, atol=1e-2)
    for method in FAST.values():
        assert np.isfinite(method(found)).all()
