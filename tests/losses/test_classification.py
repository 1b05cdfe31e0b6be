import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from morel_jax.losses import (
    cross_entropy,
    difference_of_logits_ratio,
    kl_divergence,
    margin,
    probability_margin,
    targeted_difference_of_logits_ratio,
)

from . import extreme_logits

THIRDS = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
LABELS = jnp.array([0, 1])


def random_batch(n=6, c=5, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=(n, c)) * 2, dtype) for _ in range(2)), jnp.arange(n) % c


def test_cross_entropy_is_minus_the_log_probability_of_the_label():
    np.testing.assert_allclose(cross_entropy(THIRDS, LABELS), -np.log([0.5, 0.2]), rtol=1e-6)


def test_label_smoothing_spreads_the_target_over_all_classes():
    target = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    log_p = np.log([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    np.testing.assert_allclose(cross_entropy(THIRDS, LABELS, 0.3), -np.sum(target * log_p, -1), rtol=1e-6)


def test_label_smoothing_may_be_swept_in_one_program():
    values = jnp.array([0.0, 0.1, 0.5])
    swept = jax.jit(jax.vmap(lambda s: cross_entropy(THIRDS, LABELS, s)))(values)
    one_by_one = jnp.stack([cross_entropy(THIRDS, LABELS, float(s)) for s in values])
    np.testing.assert_allclose(swept, one_by_one, rtol=1e-6)


def test_cross_entropy_is_never_negative():
    natural, _, labels = extreme_logits()
    entropy = jax.jit(cross_entropy)
    assert np.all(entropy(natural, labels) >= 0)
    (logits, _), labels = random_batch(200)
    assert np.all(entropy(10 * logits, labels) >= 0)


def test_margin_is_positive_exactly_when_misclassified():
    logits = jnp.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [3.0, 3.0, 2.0]])
    np.testing.assert_array_equal(margin(logits, jnp.array([0, 2, 1])), [-1.0, 1.0, 0.0])


def test_probability_margin_and_its_gradient_by_hand():
    """The gradient is p_y times that of the cross-entropy plus p_max times that of minus the rival's."""
    one = jax.value_and_grad(lambda z, y: probability_margin(z[None], y[None])[0])
    values, gradients = jax.vmap(one)(THIRDS, LABELS)
    p = np.exp(np.asarray(jax.nn.log_softmax(THIRDS)))
    rows, rivals = np.arange(2), np.argmax(np.where(np.arange(3) == np.asarray(LABELS)[:, None], -1, p), axis=1)
    own, rival, unit = p[rows, LABELS], p[rows, rivals], np.eye(3)
    np.testing.assert_allclose(values, rival - own, rtol=1e-6)
    expected = own[:, None] * (p - unit[np.asarray(LABELS)]) + rival[:, None] * (unit[rivals] - p)
    np.testing.assert_allclose(gradients, expected, atol=1e-7)


def test_first_of_equal_runners_up_takes_the_whole_gradient_of_the_margin():
    gradient = jax.grad(lambda z: margin(z, jnp.array([1])).sum())(jnp.array([[2.0, 5.0, 2.0, 2.0]]))
    np.testing.assert_array_equal(gradient, [[1.0, -1.0, 0.0, 0.0]])


def test_kl_divergence_by_hand():
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.1, 0.2, 0.7])
    got = kl_divergence(THIRDS[:1], THIRDS[1:] + 3.0)
    np.testing.assert_allclose(got, [np.sum(p * np.log(p / q))], rtol=1e-5)


def test_kl_divergence_of_equal_logits_is_exactly_zero():
    (logits, _), _ = random_batch(1000, 10)
    natural, _, _ = extreme_logits()
    for z in (logits, jnp.asarray(natural)):
        copy = z + 0
        np.testing.assert_array_equal(kl_divergence(z, copy), 0)
        np.testing.assert_array_equal(jax.jit(kl_divergence)(z, copy), 0)


def test_kl_divergence_is_not_negative():
    (p, q), _ = random_batch(1000)
    divergence = jax.jit(kl_divergence)
    assert np.all(divergence(p, p + 1e-3 * q) >= -1e-6)
    assert np.all(divergence(p, q) > 0)


def test_extreme_logits_give_finite_values_and_gradients():
    natural, adversarial, labels = extreme_logits()
    for loss, args in ((cross_entropy, (natural, labels, 0.0)), (cross_entropy, (natural, labels, 0.1)),
                       (margin, (natural, labels)), (kl_divergence, (natural, adversarial))):
        (_, values), gradient = jax.jit(jax.value_and_grad(
            lambda z, loss=loss, rest=args[1:]: (loss(z, *rest).sum(), loss(z, *rest)), has_aux=True))(args[0])
        assert np.all(np.isfinite(values))
        assert np.all(np.isfinite(gradient))
    gradient = jax.jit(jax.grad(lambda q: kl_divergence(natural, q).sum()))(adversarial)
    assert np.all(np.isfinite(gradient))


def test_extreme_values_by_hand():
    logits = jnp.array([[1e4, -1e4, 0.0]])
    np.testing.assert_allclose(cross_entropy(logits, jnp.array([1])), [2e4])
    np.testing.assert_allclose(cross_entropy(logits, jnp.array([0])), [0.0])
    np.testing.assert_allclose(kl_divergence(logits, -logits), [2e4])
    np.testing.assert_allclose(margin(logits, jnp.array([1])), [2e4])


def test_gradients_are_those_of_finite_differences():
    with jax.enable_x64(True):
        (p, q), labels = random_batch(dtype=np.float64)
        entropy, divergence = jax.jit(lambda z, s: cross_entropy(z, labels, s)), jax.jit(kl_divergence)
        check_grads(jax.jit(lambda z: margin(z, labels)), (p,), order=1)
        for loss, args in ((entropy, (p, 0.2)), (divergence, (p, q))):
            check_grads(loss, args, order=2, modes=("rev",))
            check_grads(loss, args, order=1, modes=("fwd",))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(dtype):
    with jax.enable_x64(True):
        (p, q), labels = random_batch(dtype=dtype)
        smoothing = np.float64(0.1)
        calls = (cross_entropy, (p, labels, smoothing)), (margin, (p, labels)), (kl_divergence, (p, q))
        for loss, args in calls:
            assert jax.eval_shape(loss, *args).dtype == dtype


def test_jit_and_other_leading_shapes_change_nothing():
    (p, q), labels = random_batch()
    for loss, args in ((cross_entropy, (p, labels)), (margin, (p, labels)), (kl_divergence, (p, q))):
        expected = loss(*args)
        assert expected.shape == (6,)
        np.testing.assert_allclose(jax.jit(loss)(*args), expected, rtol=1e-6)
        grid = loss(*(a.reshape(2, 3, *a.shape[1:]) for a in args))
        np.testing.assert_allclose(grid, expected.reshape(2, 3), rtol=1e-6)
        np.testing.assert_allclose(loss(*(a[0] for a in args)), expected[0], rtol=1e-6)


@pytest.mark.parametrize("loss", [cross_entropy, margin])
def test_label_out_of_range_scores_nan(loss):
    got = loss(jnp.zeros((3, 4)), jnp.array([-1, 0, 4]))
    np.testing.assert_array_equal(jnp.isnan(got), [True, False, True])


@pytest.mark.parametrize("loss", [cross_entropy, margin])
def test_errors_name_the_labels(loss):
    with pytest.raises(ValueError, match=r"labels must have .* got labels \(3,\), logits \(4, 10\)"):
        jax.eval_shape(loss, jnp.zeros((4, 10)), jnp.zeros(3, int))
    with pytest.raises(ValueError, match="labels must be integers; got float32"):
        jax.eval_shape(loss, jnp.zeros((4, 10)), jnp.zeros(4))


def test_errors_name_the_shapes():
    with pytest.raises(ValueError, match=r"logits_p and logits_q must .* got \(4, 3\) and \(1, 3\)"):
        jax.eval_shape(kl_divergence, jnp.zeros((4, 3)), jnp.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"at least two classes; got \(4, 1\)"):
        jax.eval_shape(margin, jnp.zeros((4, 1)), jnp.zeros(4, int))


def test_dlr_by_hand():
    logits = jnp.array([[4.0, 3.0, 1.0, 0.0], [1.0, 5.0, 2.0, 3.0]])
    got = difference_of_logits_ratio(logits, jnp.array([0, 0]))
    np.testing.assert_allclose(got, [-(4 - 3) / (4 - 1), -(1 - 5) / (5 - 2)], rtol=1e-6)
    targeted = targeted_difference_of_logits_ratio(logits, jnp.array([0, 0]), jnp.array([2, 3]))
    np.testing.assert_allclose(targeted, [-(4 - 1) / (4 - (1 + 0) / 2), -(1 - 3) / (5 - (2 + 1) / 2)], rtol=1e-6)


def test_dlr_ignores_scale_and_shift_and_stays_finite():
    (logits, _), labels = random_batch()
    expected = difference_of_logits_ratio(logits, labels)
    np.testing.assert_allclose(difference_of_logits_ratio(7 * logits + 3, labels), expected, rtol=1e-4)
    equal = jnp.zeros((2, 5))
    total = jax.jit(lambda z: difference_of_logits_ratio(z, jnp.array([0, 1])).sum())
    value, gradient = jax.value_and_grad(total)(equal)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


def test_dlr_needs_classes():
    with pytest.raises(ValueError, match=r"DLR loss needs at least three classes; got logits \(4, 2\)"):
        jax.eval_shape(difference_of_logits_ratio, jnp.zeros((4, 2)), jnp.zeros(4, int))
    with pytest.raises(ValueError, match=r"targeted DLR loss needs at least four classes; got logits \(4, 3\)"):
        jax.eval_shape(targeted_difference_of_logits_ratio, jnp.zeros((4, 3)), jnp.zeros(4, int), jnp.zeros(4, int))
