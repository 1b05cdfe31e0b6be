import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.attacks import PGD
from morel_jax.attacks.checks import ascend, gradient_norms, looks_like_probabilities, noise_breaks, nondeterministic
from morel_jax.attacks.fgsm import FGSM
from morel_jax.attacks.keys import fold_in_each
from morel_jax.losses.classification import cross_entropy, margin
from tests.attacks.linear import Linear

NETWORK = Linear()
X, Y = NETWORK.x, NETWORK.y
KEYS = fold_in_each(jax.random.key(0), jnp.arange(len(X)))


@functools.partial(jax.jit, static_argnames="norm_name")
def _ascend(x, epsilon, num_steps, random_start, norm_name):
    return ascend(NETWORK.logits, KEYS, x, Y, epsilon, num_steps, norm_name, random_start, longest=40)


def course(epsilon=0.05, num_steps=10, random_start=True, norm_name="linf", x=X):
    found = jax.tree.map(np.asarray, _ascend(x, epsilon, num_steps, random_start, norm_name))
    return found._replace(margins=found.margins[:, :num_steps + 1], wrong=found.wrong[:, :num_steps + 1])


def test_an_ascent_reaches_what_a_linear_network_allows():
    distances = NETWORK.distances("linf")
    for epsilon in (0.02, 0.05, 0.1):
        np.testing.assert_array_equal(course(epsilon=epsilon).wrong[:, -1], distances < epsilon)


def test_an_l2_ascent_reaches_what_a_linear_network_allows():
    distances = NETWORK.distances("l2")
    for epsilon in (0.1, 0.2):
        wrong = course(epsilon=epsilon, norm_name="l2", num_steps=40).wrong[:, -1]
        # The cross-entropy looks at all classes at once, and its best point is not quite the nearest boundary's.
        assert not wrong[distances > epsilon].any()
        assert wrong[distances < 0.95 * epsilon].all()


@pytest.mark.parametrize("norm_name", ["linf", "l2"])
def test_ball_and_box_hold(norm_name):
    x = np.random.default_rng(0).random(X.shape).astype(np.float32)
    moved = course(x=x, norm_name=norm_name, epsilon=0.3).x_adv
    flat = (moved - x).reshape(len(x), -1)
    assert np.linalg.norm(flat, np.inf if norm_name == "linf" else 2, axis=1).max() <= 0.3 + 1e-6
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_the_course_is_that_of_the_points():
    found = course(num_steps=3, random_start=False)
    np.testing.assert_allclose(found.margins[:, 0], margin(NETWORK.logits(X), Y), rtol=1e-5)
    for steps in range(1, 4):
        point = PGD(0.05, 2.5 * 0.05 / 3, steps, start="clean")(NETWORK.logits, KEYS, X, Y)
        np.testing.assert_allclose(found.margins[:, steps], margin(NETWORK.logits(point), Y), atol=1e-4)
        np.testing.assert_array_equal(found.wrong[:, steps], np.argmax(NETWORK.logits(point), -1) != Y)
    np.testing.assert_allclose(found.x_adv, point, atol=1e-6)


def test_one_step_is_fgsm():
    found = course(num_steps=1, random_start=False, epsilon=0.07)
    np.testing.assert_allclose(found.x_adv, FGSM(0.07)(NETWORK.logits, KEYS, X, Y), atol=1e-6)


def test_starts_are_random_one_an_example():
    starts = course(num_steps=0).x_adv - X
    assert np.abs(np.abs(starts).max(axis=(1, 2, 3)) - 0.05).max() < 1e-6
    assert np.abs(np.diff(starts, axis=0)).max() > 0.01


def test_room_beyond_the_course_changes_nothing():
    alone = ascend(NETWORK.logits, KEYS, X, Y, 0.05, 3)
    assert alone.margins.shape == alone.wrong.shape == (len(X), 4)
    roomy = _ascend(X, 0.05, 3, True, "linf")
    np.testing.assert_allclose(roomy.margins[:, :4], alone.margins, atol=1e-4)
    np.testing.assert_array_equal(roomy.margins[:, 4:], 0)
    np.testing.assert_allclose(roomy.x_adv, alone.x_adv, atol=1e-6)


def test_one_program_for_all_radii_and_lengths():
    course(0.05, 10)
    compiled = _ascend._cache_size()
    course(0.1, 1, random_start=False)
    assert _ascend._cache_size() == compiled


def test_nan_gradients_move_nothing():
    def logits_fn(x):
        return NETWORK.logits(x) + jnp.sqrt(jnp.maximum(x - 2, 0)).sum(axis=(1, 2, 3))[:, None]

    np.testing.assert_array_equal(ascend(logits_fn, KEYS, X, Y, 0.05, 2, random_start=False).x_adv, X)
    assert all(np.isnan(sizes).all() for sizes in gradient_norms(logits_fn, X, Y))


def test_gradient_norms_are_the_largest_entries():
    for found, loss in zip(gradient_norms(NETWORK.logits, X, Y), (cross_entropy, margin), strict=True):
        gradient = jax.grad(lambda x, loss=loss: loss(NETWORK.logits(x), Y).sum())(X)
        np.testing.assert_allclose(found, np.abs(gradient).max(axis=(1, 2, 3)), rtol=1e-5)


def test_gradient_norms_keep_what_squares_would_lose():
    # A lead of 75 of the right class: the others' probability is about 1e-33, its square not in float32.
    ce, lead = gradient_norms(lambda x: x.reshape(len(x), -1), np.array([[75.0, 0.0]], np.float32), np.array([0]))
    assert 0 < ce[0] < 1e-30
    assert lead[0] == 1


def test_a_deterministic_network_repeats_itself():
    assert nondeterministic(NETWORK.logits, X) == (0, 0)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_randomness_shows_even_where_a_network_is_compiled(wrap):
    generator = np.random.default_rng(0)
    network = wrap(lambda x: NETWORK.logits(x + generator.normal(0, 0.1, x.shape).astype(np.float32)))
    found = nondeterministic(network, X)
    assert found.difference > 0.01
    assert found.changed > 0


def test_difference_of_known_logits():
    answers = iter([[[3.0, 4.0]], [[4.0, 3.0]], [[6.0, 8.0]]])  # The third is as long again, and no other direction.
    found = nondeterministic(lambda x: np.array(next(answers)), X[:1], repeats=3)
    np.testing.assert_allclose(found.difference, np.sqrt(2) / 5, rtol=1e-6)
    assert found.changed == 1


def test_nan_is_no_difference():
    assert nondeterministic(lambda x: np.full((len(x), 3), np.nan), X) == (0, 0)


def test_repeats_of_one_are_refused():
    with pytest.raises(ValueError, match="repeats must be at least 2; got 1"):
        nondeterministic(NETWORK.logits, X, 1)


def test_probabilities():
    logits = np.asarray(NETWORK.logits(X))
    assert looks_like_probabilities(jax.nn.softmax(logits))
    assert looks_like_probabilities(np.eye(3))
    assert not looks_like_probabilities(logits)
    assert not looks_like_probabilities(jax.nn.log_softmax(logits))
    assert not looks_like_probabilities(jax.nn.sigmoid(logits))
    assert not looks_like_probabilities(np.array([[0.6, 0.6, -0.2]]))


@pytest.mark.parametrize("norm_name", ["linf", "l2"])
def test_noise_reaches_the_boundary_and_goes_no_further(norm_name):
    x = np.full((2, 4, 4, 1), 0.5, np.float32)

    @jax.jit
    def broken(threshold, draws):
        def logits_fn(x):
            """Says 1 when the perturbation is longer than the threshold."""
            delta = jnp.abs(x - 0.5).reshape(len(x), -1)
            length = delta.max(1) if norm_name == "linf" else jnp.sqrt((delta**2).sum(1))
            return jnp.stack([jnp.zeros(len(x)), length - threshold], axis=1)

        return noise_breaks(logits_fn, KEYS[:2], x, jnp.zeros(2, jnp.int32), 0.1, draws, norm_name)

    assert broken(0.0999, 1).all()
    assert not broken(0.1001, 20).any()
    assert not broken(0.05, 0).any()


def test_every_other_draw_of_noise_is_a_corner():
    x = np.full((2, 4, 4, 1), 0.5, np.float32)

    def at_a_corner(x):
        return jnp.stack([jnp.zeros(len(x)), jnp.abs(x - 0.5).min(axis=(1, 2, 3)) - 0.0999], axis=1)

    @jax.jit
    def broken(draws):
        return noise_breaks(at_a_corner, KEYS[:2], x, jnp.zeros(2, jnp.int32), 0.1, draws)

    assert not broken(1).any()
    assert broken(2).all()


def test_an_unknown_norm():
    with pytest.raises(ValueError, match="norm must be one of linf, l2; got 'l1'"):
        course(norm_name="l1")
