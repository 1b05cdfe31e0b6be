import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from morel_jax.losses import cosine_alignment, multi_positive_contrastive

# Compiled as one program, unlike call by call, for each shape; `test_jit_changes_nothing` compares the two.
contrastive, cosine = jax.jit(multi_positive_contrastive), jax.jit(cosine_alignment)


def random_rows(n=6, dim=4, dtype=np.float32, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, dim)), dtype)


def contrastive_by_loop(rows, labels, temperature):
    """Eq. 9 anchor by anchor, in float64."""
    t = np.asarray(rows, np.float64)
    t /= np.linalg.norm(t, axis=1, keepdims=True)
    losses = np.zeros(len(t))
    for j in range(len(t)):
        others = [q for q in range(len(t)) if q != j]
        positives = [q for q in others if labels[q] == labels[j]]
        total = sum(np.exp(t[j] @ t[q] / temperature) for q in others)
        for p in positives:
            losses[j] -= np.log(np.exp(t[j] @ t[p] / temperature) / total) / len(positives)
    return losses


@jax.jit
def value_and_gradients(rows, labels, temperature=0.1, mask=None):
    def total(t, tau):
        return multi_positive_contrastive(t, labels, tau, mask).sum()

    return jax.value_and_grad(total, (0, 1))(rows, temperature)


def test_cosine_alignment_by_hand():
    s = jnp.array([[3.0, 4.0], [1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    s_adv = jnp.array([[6.0, 8.0], [0.0, 5.0], [-2.0, -2.0], [1.0, 1.0]])
    np.testing.assert_allclose(cosine(s, s_adv), [0, 1, 2, 1 - np.sqrt(0.5)], atol=1e-6)


def test_cosine_alignment_does_not_see_scale():
    s, s_adv = random_rows(), random_rows(seed=1)
    np.testing.assert_allclose(cosine(1e-4 * s, 1e4 * s_adv), cosine(s, s_adv), atol=1e-6)


def test_cosine_alignment_stays_in_range():
    s = random_rows(1000)
    for s_adv in (s, -s, random_rows(1000, seed=1)):
        loss = cosine(s, s_adv)
        assert jnp.all((loss >= -1e-6) & (loss <= 2 + 1e-6))


def test_zero_rows_score_one_with_finite_gradients():
    s = jnp.array([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]])
    s_adv = jnp.array([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    np.testing.assert_array_equal(cosine(s, s_adv), 1)
    for gradient in jax.jit(jax.grad(lambda a, b: cosine_alignment(a, b).sum(), (0, 1)))(s, s_adv):
        assert jnp.all(jnp.isfinite(gradient))


def test_norms_below_a_millionth_count_as_a_millionth():
    s, s_adv = jnp.array([[1e-7, 0.0]]), jnp.array([[2.0, 0.0]])
    np.testing.assert_allclose(cosine(s, s_adv), [0.9], rtol=1e-6)
    rows = jnp.array([[1e-7, 0.0], [2.0, 0.0], [0.0, 3.0]])
    expected = [np.log(np.exp(0.1) + np.exp(0.0)) - 0.1, np.log(np.exp(0.1) + np.exp(0.0)) - 0.1, 0]
    got = contrastive(rows, jnp.array([0, 0, 1]), 1.0)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_contrastive_by_hand():
    rows = jnp.array([[2.0, 0.0], [0.0, 3.0], [0.5, 0.0], [0.0, 1.0]])
    # Similarities over tau = 0.5 are 2 to the parallel row and 0 to the others.
    total = np.log(np.exp(2) + 2)
    two_classes = contrastive(rows, jnp.array([0, 1, 0, 1]), 0.5)
    np.testing.assert_allclose(two_classes, np.full(4, total - 2), rtol=1e-6)
    one_class = contrastive(rows, jnp.zeros(4, int), 0.5)
    np.testing.assert_allclose(one_class, np.full(4, total - 2 / 3), rtol=1e-6)
    lonely = contrastive(rows, jnp.array([0, 1, 0, 2]), 0.5)
    np.testing.assert_allclose(lonely, [total - 2, 0, total - 2, 0], rtol=1e-6)


@pytest.mark.parametrize("labels", [[0, 1, 0, 2, 1, 0], [3] * 6, range(6)])
def test_contrastive_is_equation_9(labels):
    rows, labels = random_rows(), np.array(labels)
    got = contrastive(rows, jnp.asarray(labels), 0.3)
    np.testing.assert_allclose(got, contrastive_by_loop(rows, labels, 0.3), atol=1e-5)


def test_all_singletons_score_zero_without_gradient():
    value, (gradient, _) = value_and_gradients(random_rows(), jnp.arange(6))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_default_temperature_is_a_tenth():
    rows, labels = random_rows(), jnp.array([0, 1, 0, 2, 1, 0])
    expected = multi_positive_contrastive(rows, labels, 0.1)
    np.testing.assert_array_equal(multi_positive_contrastive(rows, labels), expected)


def test_both_readings():
    """The paper's sum over 2n rows, in which every anchor has a positive, and the mean over n natural ones."""
    t, t_adv, labels = random_rows(4), random_rows(4, seed=1), np.array([0, 1, 0, 2])
    both, twice = jnp.concatenate([t, t_adv]), np.concatenate([labels, labels])
    paper = contrastive(both, jnp.asarray(twice))
    assert jnp.all(paper > 0)
    np.testing.assert_allclose(paper.sum(), contrastive_by_loop(both, twice, 0.1).sum(), rtol=1e-5)
    # The reference's form: cross-entropy against rows of equal weights, all zero where there is no positive.
    unit = t / jnp.linalg.norm(t, axis=1, keepdims=True)
    positive = (labels[:, None] == labels) & ~np.eye(4, dtype=bool)
    target = positive / np.maximum(positive.sum(1, keepdims=True), 1)
    log_p = jax.nn.log_softmax(jnp.where(np.eye(4, dtype=bool), -1e9, unit @ unit.T / 0.1))
    reference = contrastive(t, jnp.asarray(labels)).mean()
    np.testing.assert_allclose(reference, -(target * log_p).sum(1).mean(), rtol=1e-5)


def test_contrastive_does_not_see_scale_or_order():
    rows, labels = random_rows(), jnp.array([0, 1, 0, 2, 1, 0])
    expected = contrastive(rows, labels)
    scales = jnp.array([1e-4, 1.0, 1e4, 3.0, 0.1, 7.0])[:, None]
    np.testing.assert_allclose(contrastive(scales * rows, labels), expected, rtol=1e-5)
    order = jnp.array([3, 1, 5, 0, 4, 2])
    reordered = contrastive(rows[order], labels[order])
    np.testing.assert_allclose(reordered, expected[order], rtol=1e-5)


def test_masked_contrastive_is_that_of_the_shorter_batch():
    rows, labels = random_rows(5), jnp.array([0, 1, 0, 2, 1])
    order, mask = jnp.array([0, 1, 5, 2, 3, 6, 4]), jnp.array([1, 1, 0, 1, 1, 0, 1], bool)
    padded = jnp.concatenate([rows, jnp.full((2, 4), jnp.nan)])[order]
    padded_labels = jnp.concatenate([labels, jnp.array([0, 2])])[order]

    @jax.jit
    def long(t, temperature):
        return multi_positive_contrastive(t, padded_labels, temperature, mask)

    @jax.jit
    def short(t, temperature):
        return multi_positive_contrastive(t, labels, temperature)

    loss = long(padded, 0.1)
    np.testing.assert_array_equal(loss[~mask], 0)
    np.testing.assert_allclose(loss[mask], short(rows, 0.1), rtol=1e-6)
    by_row, by_tau = jax.jit(jax.grad(lambda *a: long(*a).sum(), (0, 1)))(padded, 0.1)
    expected, expected_by_tau = jax.jit(jax.grad(lambda *a: short(*a).sum(), (0, 1)))(rows, 0.1)
    np.testing.assert_array_equal(by_row[~mask], 0)
    np.testing.assert_allclose(by_row[mask], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_tau, expected_by_tau, rtol=1e-5)


@pytest.mark.parametrize("mask", [[False] * 6, [True] + [False] * 5, [True] * 6])
@pytest.mark.parametrize("temperature", [1e-6, 1e-3, 0.1, 10.0])
@pytest.mark.parametrize("rows", [
    np.zeros((6, 4)), np.ones((6, 4)), np.eye(6, 4), np.outer([1, -1, 1, -1, 1, -1], np.ones(4)),
    np.full((6, 4), 1e9),
], ids=["zero", "identical", "some zero", "opposed", "large"])
def test_degenerate_rows_are_finite(rows, temperature, mask):
    labels, mask = jnp.array([0, 1, 0, 2, 1, 0]), jnp.array(mask)
    rows = jnp.asarray(rows, jnp.float32)
    value, gradients = value_and_gradients(rows, labels, temperature, mask)
    assert value >= -1e-6 / temperature
    for array in (value, *gradients):
        assert jnp.all(jnp.isfinite(array))


def test_identical_rows_score_the_log_of_the_number_of_candidates():
    loss = contrastive(jnp.ones((6, 4)), jnp.zeros(6, int))
    np.testing.assert_allclose(loss, np.full(6, np.log(5)), rtol=1e-5)


def test_one_row_alone_scores_zero():
    value, (gradient, _) = value_and_gradients(jnp.ones((1, 4)), jnp.array([0]))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_a_row_without_candidates_has_no_nan_inside():
    with jax.debug_nans(True), jax.disable_jit():
        jax.grad(lambda t: multi_positive_contrastive(t, jnp.array([0])).sum())(jnp.ones((1, 4)))


def test_gradients_are_those_of_finite_differences():
    with jax.enable_x64(True):
        rows, other = random_rows(dtype=np.float64), random_rows(dtype=np.float64, seed=1)
        labels, mask = jnp.array([0, 1, 0, 2, 1, 0]), jnp.array([1, 1, 1, 1, 1, 0], bool)
        check_grads(jax.jit(cosine_alignment), (rows, other), order=2, modes=("rev",))
        check_grads(jax.jit(cosine_alignment), (rows, other), order=1, modes=("fwd",))
        masked = jax.jit(lambda t, tau: multi_positive_contrastive(t, labels, tau, mask))
        check_grads(masked, (rows, 0.5), order=2, modes=("rev",))
        check_grads(masked, (rows, 0.5), order=1, modes=("fwd",))


def test_temperature_may_be_swept_in_one_program():
    rows, labels = random_rows(), jnp.array([0, 1, 0, 2, 1, 0])
    values = jnp.array([0.05, 0.1, 1.0])
    swept = jax.jit(jax.vmap(lambda tau: multi_positive_contrastive(rows, labels, tau)))(values)
    one_by_one = jnp.stack([contrastive(rows, labels, float(tau)) for tau in values])
    np.testing.assert_allclose(swept, one_by_one, rtol=1e-5)


def test_jit_changes_nothing():
    rows, other, labels = random_rows(), random_rows(seed=1), jnp.array([0, 1, 0, 2, 1, 0])
    for loss, args in ((cosine_alignment, (rows, other)), (multi_positive_contrastive, (rows, labels))):
        np.testing.assert_allclose(jax.jit(loss)(*args), loss(*args), rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(dtype):
    with jax.enable_x64(True):
        rows, labels = random_rows(dtype=dtype), jnp.zeros(6, int)
        assert jax.eval_shape(cosine_alignment, rows, rows).dtype == dtype
        assert jax.eval_shape(multi_positive_contrastive, rows, labels, np.float64(0.1)).dtype == dtype


def test_errors_name_the_shapes():
    with pytest.raises(ValueError, match=r"s and s_adv must have the same shape; got \(4, 3\) and \(1, 3\)"):
        jax.eval_shape(cosine_alignment, jnp.zeros((4, 3)), jnp.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"got embeddings \(4, 3\), labels \(5,\)"):
        jax.eval_shape(multi_positive_contrastive, jnp.zeros((4, 3)), jnp.zeros(5, int))
    with pytest.raises(ValueError, match=r"got embeddings \(4,\), labels \(4,\)"):
        jax.eval_shape(multi_positive_contrastive, jnp.zeros(4), jnp.zeros(4, int))
    with pytest.raises(ValueError, match=r"mask and labels must have the same shape; got \(1,\) and \(4,\)"):
        multi_positive_contrastive(jnp.zeros((4, 3)), jnp.zeros(4, int), mask=jnp.ones(1, bool))
    with pytest.raises(ValueError, match="labels must be integers; got float32"):
        multi_positive_contrastive(jnp.zeros((4, 3)), jnp.zeros(4))
    for temperature in (0.0, -0.1, np.nan, 1e-300):
        with pytest.raises(ValueError, match=f"temperature must be finite and at least .*; got {temperature}"):
            multi_positive_contrastive(jnp.zeros((4, 3)), jnp.zeros(4, int), temperature)
