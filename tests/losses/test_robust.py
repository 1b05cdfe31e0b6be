import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from morel_jax.losses import (
    LOAT_FIRST,
    LOAT_LAST,
    LOAT_MIDDLE,
    cross_entropy,
    kl_divergence,
    loat,
    loat_phase,
    mart,
    pgd_at,
    trades,
)
from tests.small import mostly_slow

from . import extreme_logits

P = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.25, 0.15, 0.6]])
P_ADV = np.array([[0.2, 0.5, 0.3], [0.3, 0.3, 0.4], [0.1, 0.8, 0.1]])
LABELS = np.array([0, 1, 2])  # Natural outputs are right, wrong, right.
LOGITS, LOGITS_ADV = jnp.log(jnp.asarray(P)), jnp.log(jnp.asarray(P_ADV)) + 2.0
PHASES = (LOAT_FIRST, LOAT_MIDDLE, LOAT_LAST)
VARIANTS = list(itertools.product(("mse", "kl"), ("mart", "trades")))
EACH_PART = mostly_slow(VARIANTS, ("mse", "mart"), ("kl", "trades"))
R = {"mse": np.array([2 * 0.05**2, 2 * 0.3**2, 2 * 0.05**2]), "kl": -np.log([0.7, 0.3, 0.75])}
A = {"mse": np.array([0.09 + 0.04 + 0.01, 0.04 + 0.01 + 0.09, 0.0225 + 0.4225 + 0.25]),
     "kl": -np.log([1 - 0.2, 1 - 0.3, 1 - 0.65])}


def random_batch(n=6, c=5, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    logits, logits_adv = (jnp.asarray(rng.normal(size=(n, c)) * 2, dtype) for _ in range(2))
    return logits, logits_adv, jnp.asarray(rng.integers(0, c, n))


def robust_losses():
    """All losses, LOAT's three phases stacked: a program to compile each."""
    yield pgd_at
    yield trades
    yield mart
    for kind, base in VARIANTS:
        yield functools.partial(in_all_phases, kind=kind, base=base)


def in_all_phases(logits, logits_adv, labels, **options):
    return jax.vmap(lambda phase: loat(logits, logits_adv, labels, phase, **options))(jnp.array(PHASES))


def mart_by_hand(p, p_adv, y, beta):
    rows = range(len(y))
    runner_up = np.max(np.where(np.eye(p.shape[1], dtype=bool)[y], 0, p_adv), axis=1)
    divergence = np.sum(p * (np.log(p) - np.log(p_adv + 1e-12)), axis=1)
    return (-np.log(p_adv[rows, y]) - np.log(1.0001 - runner_up + 1e-12)
            + beta * divergence * (1.0000001 - p[rows, y]))


def test_pgd_at_is_the_cross_entropy_of_the_adversarial_outputs():
    np.testing.assert_allclose(pgd_at(LOGITS, LOGITS_ADV, LABELS), -np.log([0.2, 0.3, 0.1]), rtol=1e-5)
    smoothed = cross_entropy(LOGITS_ADV, LABELS, 0.2)
    np.testing.assert_array_equal(pgd_at(None, LOGITS_ADV, LABELS, label_smoothing=0.2), smoothed)
    assert np.abs(smoothed - pgd_at(None, LOGITS_ADV, LABELS)).max() > 0.01


def test_trades_by_hand():
    expected = -np.log([0.5, 0.2, 0.6]) + 3 * np.sum(P * np.log(P / P_ADV), axis=1)
    np.testing.assert_allclose(trades(LOGITS, LOGITS_ADV, LABELS, 3.0), expected, rtol=1e-5)


def test_mart_by_hand():
    got = mart(LOGITS, LOGITS_ADV, LABELS, 3.0)
    np.testing.assert_allclose(got, mart_by_hand(P, P_ADV, LABELS, 3.0), rtol=1e-5)
    with jax.enable_x64(True):  # Precise enough to see the constants.
        got = jax.jit(mart)(np.log(P), np.log(P_ADV), LABELS, 3.0)
        np.testing.assert_allclose(got, mart_by_hand(P, P_ADV, LABELS, 3.0), rtol=1e-13)


@pytest.mark.parametrize("loss", [trades, mart])
def test_default_beta_is_six(loss):
    np.testing.assert_array_equal(loss(LOGITS, LOGITS_ADV, LABELS), loss(LOGITS, LOGITS_ADV, LABELS, 6.0))


def test_mart_at_probabilities_zero_and_one():
    sure = jnp.array([[1e4, -1e4, -1e4]])
    np.testing.assert_allclose(mart(sure, sure, jnp.array([0]), 0.0), [-np.log(1.0001)], rtol=1e-2)
    # The runner-up has probability 1; the label 0 in both.
    np.testing.assert_allclose(mart(sure, sure, jnp.array([1]), 0.0), [2e4 - np.log(1e-4)], rtol=1e-4)
    # The divergence saturates at -log(1e-12), as published.
    got = mart(sure, -sure, jnp.array([1]), 1.0) - mart(sure, -sure, jnp.array([1]), 0.0)
    np.testing.assert_allclose(got, [-np.log(1e-12)], rtol=1e-4)


def test_runner_up_of_mart_is_the_largest_probability_outside_the_label_also_when_tied():
    p_adv = np.array([[0.4, 0.4, 0.2], [0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [1 / 3, 1 / 3, 1 / 3]])
    y = np.array([0, 1, 0, 2])
    z = np.log(p_adv)
    np.testing.assert_allclose(jax.jit(mart)(z, z, y, 0.0), mart_by_hand(p_adv, p_adv, y, 0.0), rtol=1e-5)


def test_gradient_of_mart_flows_through_its_weight():
    def held(z, weight):
        log_p, log_q = jax.nn.log_softmax(z), jax.nn.log_softmax(LOGITS_ADV)
        return jnp.sum(weight * jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1))

    def weight(z):
        return 1 - jax.nn.softmax(z)[jnp.arange(3), LABELS]

    @jax.jit
    def gradients(z):
        full = jax.grad(lambda z: mart(z, LOGITS_ADV, LABELS, 1.0).sum())(z)
        through_weight = jax.grad(lambda z: jnp.sum(kl_divergence(LOGITS, LOGITS_ADV) * weight(z)))(z)
        return full, jax.grad(held)(z, weight(z)), through_weight

    full, through_rest, through_weight = gradients(LOGITS)
    np.testing.assert_allclose(full, through_rest + through_weight, atol=1e-5)
    assert np.max(np.abs(through_weight)) > 0.01


@pytest.mark.parametrize("loss", [pgd_at, trades, mart])
def test_examples_do_not_depend_on_each_other(loss):
    whole = loss(LOGITS, LOGITS_ADV, LABELS)
    alone = [loss(LOGITS[i:i + 1], LOGITS_ADV[i:i + 1], LABELS[i:i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(whole, jnp.stack(alone), rtol=1e-6)


def test_loat_phase_follows_the_epoch():
    epochs = jnp.array([0, 1, 2, 99, 100, 110])
    expected = [LOAT_FIRST, LOAT_FIRST, LOAT_MIDDLE, LOAT_MIDDLE, LOAT_LAST, LOAT_LAST]
    phases = jax.jit(loat_phase)(epochs, 100)
    assert phases.dtype == jnp.int32
    np.testing.assert_array_equal(phases, expected)
    assert [int(loat_phase(int(e), 100)) for e in epochs] == expected
    assert loat_phase(1, 1) == LOAT_FIRST
    assert loat_phase(2, 1) == LOAT_LAST


@pytest.mark.parametrize(("kind", "base"), VARIANTS)
def test_mean_of_loat_is_the_batch_loss_by_hand(kind, base):
    plain = {"mart": mart, "trades": trades}[base](LOGITS, LOGITS_ADV, LABELS, 3.0).mean()
    correct, wrong = (R[kind][0] + R[kind][2]) / 2, R[kind][1]
    expected = {LOAT_FIRST: 0.7 * (correct - wrong) + 0.3 * A[kind][1],
                LOAT_MIDDLE: 0.0,
                LOAT_LAST: 0.7 * (wrong - correct) + 0.3 * (A[kind][0] + A[kind][2]) / 2}
    for phase, extra in expected.items():
        loss = loat(LOGITS, LOGITS_ADV, LABELS, phase, 3.0, theta=0.7, gamma=0.3, kind=kind, base=base)
        assert loss.shape == (3,)
        np.testing.assert_allclose(loss.mean(), plain + extra, rtol=1e-5)


def test_defaults_of_loat():
    spelled = loat(LOGITS, LOGITS_ADV, LABELS, LOAT_FIRST, 6.0, 1.0, 0.05, "mse", "mart", jnp.ones(3, bool))
    np.testing.assert_array_equal(loat(LOGITS, LOGITS_ADV, LABELS, LOAT_FIRST), spelled)


@pytest.mark.parametrize(("kind", "base"), VARIANTS)
@pytest.mark.parametrize("phase", [LOAT_MIDDLE, 7])
def test_middle_phase_of_loat_is_its_base_exactly(kind, base, phase):
    batch = random_batch()
    expected = {"mart": mart, "trades": trades}[base](*batch)
    np.testing.assert_array_equal(loat(*batch, phase, kind=kind, base=base), expected)


@pytest.mark.parametrize(("kind", "base"), EACH_PART)
def test_empty_group_of_loat_contributes_nothing(kind, base):
    logits, logits_adv, _ = random_batch()
    theta, gamma = 0.7, 0.3

    def total(z, z_adv, labels, phase):
        return loat(z, z_adv, labels, phase, theta=theta, gamma=gamma, kind=kind, base=base).mean()

    def expected(z, z_adv, labels, sign, paired):
        p, p_adv = jax.nn.softmax(z), jax.nn.softmax(z_adv)
        own, rows = jax.nn.one_hot(labels, 5), jnp.arange(6)
        if kind == "mse":
            even = (1 - p[rows, labels])[:, None] / 4
            r, a = ((1 - own) * (p - even) ** 2).sum(-1), ((p_adv - p) ** 2).sum(-1)
        else:
            top = jnp.argmax(z_adv, -1)
            r = -jnp.log(1 - jnp.max(p - own, -1))
            a = -jnp.log(1 - jnp.abs(p_adv[rows, top] - p[rows, top]))
        plain = {"mart": mart, "trades": trades}[base](z, z_adv, labels)
        return plain.mean() + theta * sign * r.mean() + gamma * paired * a.mean()

    got, want = (jax.jit(jax.value_and_grad(f, (0, 1))) for f in (total, expected))
    right, wrong = jnp.argmax(logits, -1), jnp.argmin(logits, -1)
    for labels, phase, sign, paired in ((right, LOAT_FIRST, 1.0, 0.0), (wrong, LOAT_FIRST, -1.0, 1.0),
                                        (right, LOAT_LAST, -1.0, 1.0), (wrong, LOAT_LAST, 1.0, 0.0)):
        value, gradients = got(logits, logits_adv, labels, phase)
        expected_value, expected_gradients = want(logits, logits_adv, labels, sign, paired)
        np.testing.assert_allclose(value, expected_value, rtol=1e-5)
        np.testing.assert_allclose(np.stack(gradients), np.stack(expected_gradients), atol=1e-5)


@pytest.mark.parametrize(("kind", "base"), EACH_PART)
def test_masked_loat_is_loat_of_the_shorter_batch(kind, base):
    logits, logits_adv, labels = random_batch(5)
    mask, order = np.array([1, 1, 0, 1, 1, 0, 1], bool), np.array([0, 1, 5, 2, 3, 6, 4])
    padded = [np.concatenate([z, np.full((2, 5), np.nan, np.float32)])[order] for z in (logits, logits_adv)]
    padded_labels = np.concatenate([labels, [-1, 99]])[order]

    @functools.partial(jax.jit, static_argnames="with_mask")
    def values_and_gradients(z, z_adv, y, phase, with_mask):
        def loss(z, z_adv, beta, theta, gamma):
            values = loat(z, z_adv, y, phase, beta, theta, gamma, kind, base, mask if with_mask else None)
            return values.sum(), values

        (_, values), gradients = jax.value_and_grad(loss, range(5), has_aux=True)(z, z_adv, 6.0, 0.7, 0.3)
        return values, *gradients

    for phase in PHASES:
        long = values_and_gradients(*padded, padded_labels, phase, with_mask=True)
        short = values_and_gradients(logits, logits_adv, labels, phase, with_mask=False)
        for got, expected in zip(long[:3], short[:3], strict=True):
            np.testing.assert_array_equal(got[~mask], 0)
            np.testing.assert_allclose(got[mask], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(long[3:], short[3:], rtol=1e-5, atol=1e-6)


def test_loat_of_nothing_but_padding_is_zero():
    logits, logits_adv, labels = random_batch()
    value, gradient = jax.jit(jax.value_and_grad(
        lambda z: loat(z, logits_adv, labels, LOAT_FIRST, mask=np.zeros(6, bool)).sum()))(logits)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_equal_images_have_no_pairing_and_no_gradient_of_it():
    logits, _, _ = random_batch()
    labels = jnp.argmin(logits, -1)
    for kind in ("mse", "kl"):
        def pairing(z, z_adv, kind=kind):
            with_it, without = (loat(z, z_adv, labels, LOAT_FIRST, gamma=g, kind=kind).sum() for g in (1.0, 0.0))
            return with_it - without

        assert pairing(logits, logits) == 0
        for gradient in jax.jit(jax.grad(pairing, (0, 1)))(logits, logits):
            np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_extreme_logits_give_finite_values_and_gradients():
    natural, adversarial, labels = extreme_logits()
    for loss in robust_losses():
        def with_gradients(z, z_adv, loss=loss):
            jacobians = jax.jacrev(lambda *pair: loss(*pair, labels).sum(-1), (0, 1))
            return loss(z, z_adv, labels), *jacobians(z, z_adv)

        for array in jax.jit(with_gradients)(natural, adversarial):
            assert np.all(np.isfinite(array))


@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_single_extreme_images_give_finite_loat(kind):
    """One image a batch, so that a group of the wrong kind is always empty."""
    cases = jax.tree.map(lambda a: a[:, None], extreme_logits())

    def loss(z, z_adv, y, phase):
        return loat(z, z_adv, y, phase, kind=kind).sum()

    both = jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1)), (0, 0, 0, None)))
    for phase in PHASES:
        values, gradients = both(*cases, phase)
        for array in (values, *gradients):
            assert np.all(np.isfinite(array))


@pytest.mark.slow
def test_gradients_are_those_of_finite_differences():
    with jax.enable_x64(True):
        logits, logits_adv, labels = random_batch(dtype=np.float64)
        compiled_loat = jax.jit(loat, static_argnames=("kind", "base"))
        every_loat = [functools.partial(compiled_loat, phase=phase, kind=kind, base=base)
                      for phase, (kind, base) in itertools.product(PHASES, VARIANTS)]
        for loss in (*map(jax.jit, (pgd_at, trades, mart)), *every_loat):
            check_grads(lambda z, z_adv, loss=loss: loss(z, z_adv, labels), (logits, logits_adv), order=1)
        for loss in map(jax.jit, (trades, mart)):
            check_grads(lambda z, z_adv, b, loss=loss: loss(z, z_adv, labels, b), (logits, logits_adv, 2.0),
                        order=2, modes=("rev",))


def test_weights_and_phase_may_be_swept_in_one_program():
    batch = random_batch()
    betas = jnp.array([0.0, 1.0, 6.0])
    for loss in (trades, mart):
        swept = jax.jit(jax.vmap(lambda b, loss=loss: loss(*batch, b)))(betas)
        np.testing.assert_allclose(swept, jnp.stack([loss(*batch, float(b)) for b in betas]), rtol=1e-5)
    grid = jnp.array(list(itertools.product(PHASES, (1.0, 6.0), (0.1, 1.0), (0.0, 0.05))))
    for kind, base in VARIANTS:
        def one(phase, beta, theta, gamma, kind=kind, base=base):
            return loat(*batch, phase, beta, theta, gamma, kind, base)

        swept = jax.jit(jax.vmap(one))(grid[:, 0].astype(int), *grid[:, 1:].T)
        alone = jax.jit(one)
        one_by_one = np.stack([alone(int(row[0]), *map(float, row[1:])) for row in np.asarray(grid)])
        np.testing.assert_allclose(swept, one_by_one, rtol=1e-5)


def test_jit_changes_nothing():
    batch = random_batch()
    for loss in (pgd_at, trades, mart):  # LOAT: in the sweep above.
        np.testing.assert_allclose(jax.jit(loss)(*batch), loss(*batch), rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept_whatever_the_weights_have(dtype):
    with jax.enable_x64(True):
        batch = random_batch(dtype=dtype)
        for weight in (6.0, np.float64(6.0), jnp.float32(6.0)):
            for loss in (trades, mart):
                assert jax.eval_shape(loss, *batch, weight).dtype == dtype
            for kind, base in VARIANTS:
                loss = functools.partial(loat, kind=kind, base=base)
                assert jax.eval_shape(loss, *batch, jnp.int32(0), weight, weight, weight).dtype == dtype
        assert jax.eval_shape(pgd_at, *batch).dtype == dtype


def test_identical_images_leave_trades_with_the_natural_loss():
    logits, _, labels = random_batch()
    np.testing.assert_array_equal(trades(logits, logits, labels), cross_entropy(logits, labels))


@pytest.mark.parametrize("loss", [pgd_at, trades, mart, functools.partial(loat, phase=LOAT_FIRST)])
def test_errors_name_the_shapes(loss):
    with pytest.raises(ValueError, match=r"logits and logits_adv must .* got \(4, 3\) and \(4, 5\)"):
        jax.eval_shape(loss, jnp.zeros((4, 3)), jnp.zeros((4, 5)), jnp.zeros(4, int))
    with pytest.raises(ValueError, match=r"labels must have .* got labels \(1,\), logits \(4, 3\)"):
        jax.eval_shape(loss, jnp.zeros((4, 3)), jnp.zeros((4, 3)), jnp.zeros(1, int))
    with pytest.raises(ValueError, match="labels must be integers; got float32"):
        jax.eval_shape(loss, jnp.zeros((4, 3)), jnp.zeros((4, 3)), jnp.zeros(4))


@pytest.mark.parametrize("loss", [mart, functools.partial(loat, phase=LOAT_FIRST)])
def test_one_class_is_refused(loss):
    with pytest.raises(ValueError, match=r"at least two classes; got \(4, 1\)"):
        jax.eval_shape(loss, jnp.zeros((4, 1)), jnp.zeros((4, 1)), jnp.zeros(4, int))


def test_errors_of_loat():
    batch = random_batch()
    with pytest.raises(ValueError, match="kind must be one of mse, kl; got 'huber'"):
        loat(*batch, LOAT_FIRST, kind="huber")
    with pytest.raises(ValueError, match="base must be one of mart, trades; got 'at'"):
        loat(*batch, LOAT_FIRST, base="at")
    with pytest.raises(ValueError, match=r"mask and labels must have the same shape; got \(5,\) and \(6,\)"):
        loat(*batch, LOAT_FIRST, mask=jnp.ones(5, bool))
    with pytest.raises(ValueError, match=r"logits must have shape \[n, c\]; got \(5,\)"):
        loat(batch[0][0], batch[1][0], batch[2][0], LOAT_FIRST)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_weights_that_make_no_sense_are_refused_where_they_are_known(value):
    batch = random_batch()
    for loss, name in ((trades, "beta"), (mart, "beta"), (functools.partial(loat, phase=LOAT_FIRST), "beta"),
                       (functools.partial(loat, phase=LOAT_FIRST), "theta"),
                       (functools.partial(loat, phase=LOAT_FIRST), "gamma"), (pgd_at, "label_smoothing")):
        with pytest.raises(ValueError, match=f"{name} must be finite and .*; got {value}"):
            loss(*batch, **{name: value})
    jax.eval_shape(trades, *batch, jnp.float32(value))  # Traced: not known.
