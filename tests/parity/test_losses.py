"""Losses against PyTorch, written from the equations: values and gradients, in float32 and float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from morel_jax import losses

F = torch.nn.functional
pytestmark = pytest.mark.parity

TOLERANCE = {np.float32: dict(rtol=2e-4, atol=2e-5), np.float64: dict(rtol=1e-9, atol=1e-10)}
BATCHES = list(itertools.product((np.float32, np.float64), range(3)))


def torch_pgd_at(z, z_adv, y):
    return F.cross_entropy(z_adv, y)


def torch_trades(z, z_adv, y, beta):
    robust = F.kl_div(F.log_softmax(z_adv, 1), F.softmax(z, 1), reduction="batchmean")
    return F.cross_entropy(z, y) + beta * robust


def torch_mart(z, z_adv, y, beta):
    p, p_adv = F.softmax(z, 1), F.softmax(z_adv, 1)
    total = 0.0
    for i, label in enumerate(y.tolist()):
        best, second = torch.sort(p_adv[i], descending=True).indices[:2].tolist()
        rival = second if best == label else best
        boosted = -torch.log(p_adv[i, label]) - torch.log(1.0001 - p_adv[i, rival] + 1e-12)
        divergence = (p[i] * (torch.log(p[i]) - torch.log(p_adv[i] + 1e-12))).sum()
        total = total + boosted + beta * divergence * (1.0000001 - p[i, label])
    return total / len(y)


def torch_loat(z, z_adv, y, beta, phase, theta, gamma, kind, base):
    p, p_adv = F.softmax(z, 1), F.softmax(z_adv, 1)
    regularity = {True: [], False: []}
    pairing = {True: [], False: []}
    for i, label in enumerate(y.tolist()):
        right = p[i].argmax().item() == label
        others = [j for j in range(p.shape[1]) if j != label]
        if kind == "mse":
            even = (1 - p[i, label]) / len(others)
            regularity[right].append(sum((p[i, j] - even) ** 2 for j in others))
            pairing[right].append(((p_adv[i] - p[i]) ** 2).sum())
        else:
            regularity[right].append(-torch.log(1 - max(p[i, j] for j in others)))
            top = p_adv[i].argmax()
            pairing[right].append(-torch.log(1 - (p_adv[i, top] - p[i, top]).abs()))

    def mean(values):
        return sum(values) / len(values) if values else 0.0

    loss = (torch_mart if base == "mart" else torch_trades)(z, z_adv, y, beta)
    if phase == "first":
        return loss + theta * (mean(regularity[True]) - mean(regularity[False])) + gamma * mean(pairing[False])
    if phase == "last":
        return loss + theta * (mean(regularity[False]) - mean(regularity[True])) + gamma * mean(pairing[True])
    return loss


def torch_cosine(s, s_adv):
    return 1 - F.cosine_similarity(s, s_adv, dim=1).mean()


def torch_contrastive(t, y, temperature, reduction):
    """Soft cross-entropy over the other rows, with equal weights on the positives."""
    t = F.normalize(t, dim=1)
    n = len(t)
    others = ~torch.eye(n, dtype=torch.bool)
    positive = (y[:, None] == y) & others
    positive = positive.to(t.dtype)
    target = positive / positive.sum(1, keepdim=True).clamp(min=1)
    log_p = torch.log_softmax((t @ t.T / temperature).masked_fill(~others, -1e9), 1)
    per_anchor = -(target * log_p).sum(1)
    return per_anchor.sum() if reduction == "sum" else per_anchor.mean()


def batch(dtype, seed, n=12, c=10, right=None):
    """Random logits and labels, about half of them right, or all or none."""
    rng = np.random.default_rng(seed)
    z, z_adv = (3 * rng.normal(size=(n, c)).astype(dtype) for _ in range(2))
    top = z.argmax(1)
    y = np.where(rng.random(n) < 0.5, top, rng.integers(0, c, n))
    if right is not None:
        y = top if right else (top + 1) % c
    return z, z_adv, y


def compare(jax_loss, torch_loss, arrays, labels, dtype):
    """Values and gradients with respect to every array."""
    with jax.enable_x64(True):
        value, gradients = jax.jit(jax.value_and_grad(lambda arrays: jax_loss(*arrays, jnp.asarray(labels))))(
            tuple(map(jnp.asarray, arrays)))
        assert value.dtype == dtype
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    expected = torch_loss(*tensors, torch.tensor(labels))
    expected_gradients = torch.autograd.grad(expected, tensors, allow_unused=True)
    np.testing.assert_allclose(value, expected.item(), **TOLERANCE[dtype])
    for gradient, tensor, other in zip(gradients, tensors, expected_gradients, strict=True):
        other = torch.zeros_like(tensor) if other is None else other
        np.testing.assert_allclose(gradient, other.numpy(), **TOLERANCE[dtype])


@pytest.mark.parametrize(("dtype", "seed"), BATCHES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(dtype, seed, smoothing):
    z, _, y = batch(dtype, seed)
    compare(lambda z, y: losses.cross_entropy(z, y, smoothing).mean(),
            lambda z, y: F.cross_entropy(z, y, label_smoothing=smoothing), [z], y, dtype)


@pytest.mark.parametrize(("dtype", "seed"), BATCHES)
def test_margin(dtype, seed):
    """The multi-class hinge's maximum, by sorting."""
    def by_sorting(z, y):
        own = z.gather(1, y[:, None])[:, 0]
        top, second = z.sort(1, descending=True).values[:, :2].T
        return (torch.where(own == top, second, top) - own).mean()

    z, _, y = batch(dtype, seed)
    compare(lambda z, y: losses.margin(z, y).mean(), by_sorting, [z], y, dtype)


@pytest.mark.parametrize(("dtype", "seed"), BATCHES)
def test_kl_divergence(dtype, seed):
    z, z_adv, y = batch(dtype, seed)
    compare(lambda p, q, y: losses.kl_divergence(p, q).mean(),
            lambda p, q, y: F.kl_div(F.log_softmax(q, 1), F.log_softmax(p, 1), reduction="batchmean",
                                     log_target=True), [z, z_adv], y, dtype)


@pytest.mark.parametrize(("dtype", "seed"), BATCHES)
def test_pgd_at_trades_and_mart(dtype, seed):
    z, z_adv, y = batch(dtype, seed)
    compare(lambda *a: losses.pgd_at(*a).mean(), torch_pgd_at, [z, z_adv], y, dtype)
    for beta in (1.0, 6.0):
        compare(lambda *a, b=beta: losses.trades(*a, b).mean(), lambda *a, b=beta: torch_trades(*a, b),
                [z, z_adv], y, dtype)
        compare(lambda *a, b=beta: losses.mart(*a, b).mean(), lambda *a, b=beta: torch_mart(*a, b),
                [z, z_adv], y, dtype)


@pytest.mark.parametrize(("dtype", "right"), [(np.float32, None), (np.float64, None), (np.float64, True),
                                             (np.float64, False)])
@pytest.mark.parametrize(("kind", "base"), list(itertools.product(("mse", "kl"), ("mart", "trades"))))
@pytest.mark.parametrize("phase", ["first", "middle", "last"])
def test_loat(dtype, right, kind, base, phase):
    z, z_adv, y = batch(dtype, 3, right=right)
    number = getattr(losses, f"LOAT_{phase.upper()}")
    compare(lambda *a: losses.loat(*a, number, 6.0, 0.7, 0.3, kind, base).mean(),
            lambda *a: torch_loat(*a, 6.0, phase, 0.7, 0.3, kind, base), [z, z_adv], y, dtype)


@pytest.mark.parametrize(("dtype", "seed"), BATCHES)
def test_cosine_alignment(dtype, seed):
    s, s_adv, y = batch(dtype, seed, c=16)
    compare(lambda s, s_adv, y: losses.cosine_alignment(s, s_adv).mean(),
            lambda s, s_adv, y: torch_cosine(s, s_adv), [s, s_adv], y, dtype)


@pytest.mark.parametrize(("dtype", "seed"), BATCHES)
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_multi_positive_contrastive(dtype, seed, temperature):
    """`paper` on 2n rows, summed; `reference` on n rows, averaged, some of them without positives."""
    t, t_adv, _ = batch(dtype, seed, n=8, c=16)
    y = np.array([0, 1, 0, 2, 3, 1, 0, 4])
    compare(lambda t, t_adv, y: losses.multi_positive_contrastive(
                jnp.concatenate([t, t_adv]), jnp.concatenate([y, y]), temperature).sum(),
            lambda t, t_adv, y: torch_contrastive(torch.cat([t, t_adv]), torch.cat([y, y]), temperature, "sum"),
            [t, t_adv], y, dtype)
    compare(lambda t, y: losses.multi_positive_contrastive(t, y, temperature).mean(),
            lambda t, y: torch_contrastive(t, y, temperature, "mean"), [t], y, dtype)
