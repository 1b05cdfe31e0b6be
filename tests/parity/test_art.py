"""FGSM, PGD and CW-Linf against the Adversarial Robustness Toolbox, on one network in both frameworks."""

import jax
import numpy as np
import pytest
import torch
from art.attacks.evasion import CarliniLInfMethod, FastGradientMethod, HopSkipJump, ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier

from benchmarks.torch_convnet import convnet_small
from morel_jax.attacks.cw import CWLinf
from morel_jax.attacks.fgsm import FGSM
from morel_jax.attacks.hopskipjump import HopSkipJump as OurHopSkipJump
from morel_jax.attacks.norms import norm as known_norm
from morel_jax.attacks.pgd import PGD
from morel_jax.interop.torch import export_state_dict
from morel_jax.losses import cross_entropy

pytestmark = pytest.mark.parity
EPSILON = 0.1
COUNT = 100


@pytest.fixture(scope="module")
def network(quickstart_network):
    """(jitted logits_fn, ART's classifier, x, y, bool[n]: right on the clean image), of the quickstart's network."""
    logits_fn, variables, dataset = quickstart_network
    x = np.asarray(dataset.test.images[:COUNT], np.float32) / 255
    y = dataset.test.labels[:COUNT].astype(np.int32)
    exported = export_state_dict(variables, "convnet_small")
    weights = {name: torch.from_numpy(tensor) for name, tensor in exported.items()}
    twin = PyTorchClassifier(convnet_small(weights), loss=torch.nn.CrossEntropyLoss(),
                             input_shape=x.shape[:0:-1], nb_classes=10, clip_values=(0, 1), device_type="cpu")
    right = predictions(logits_fn, x) == y
    assert 0 < right.sum() < COUNT  # There are images of both kinds.
    return jax.jit(logits_fn), twin, x, y, right


def predictions(logits_fn, x):
    return np.argmax(logits_fn(x), axis=-1)


def art_images(attack, x, y):
    """Images [n, h, w, c] of one of ART's attacks, which has them [n, c, h, w]."""
    return attack.generate(np.ascontiguousarray(x.transpose(0, 3, 1, 2)), y).transpose(0, 2, 3, 1)


def test_fgsm(network):
    """Each pixel, but for those whose gradient is so small that rounding may give it either sign."""
    logits_fn, twin, x, y, _ = network
    ours = FGSM(EPSILON)(logits_fn, jax.random.key(0), x, y)
    theirs = art_images(FastGradientMethod(twin, eps=EPSILON, batch_size=COUNT), x, y)
    gradient = np.abs(jax.grad(lambda x: cross_entropy(logits_fn(x), y).sum())(x))
    clear = gradient > 1e-6 * gradient.max(axis=(1, 2, 3), keepdims=True)
    assert np.mean(clear) > 0.999
    np.testing.assert_allclose(np.asarray(ours)[clear], theirs[clear], atol=1e-6, rtol=0)
    assert np.mean(np.abs(ours - x) > 0.99 * EPSILON) > 0.5


@pytest.mark.parametrize("epsilon", [0.03, EPSILON])
def test_pgd(network, epsilon):
    """Image by image.

    A gradient that is zero up to rounding may send its pixel the other way, by whole steps, and through the network's
    kinks others after it. About five of the 380,000 gradients here are below a millionth of their image's largest,
    hence one image is excused. None differed where this was written.
    """
    logits_fn, twin, x, y, _ = network
    ours = PGD(epsilon, epsilon / 10, num_steps=20, start="clean")(logits_fn, jax.random.key(0), x, y)
    theirs = art_images(ProjectedGradientDescent(twin, eps=epsilon, eps_step=epsilon / 10, max_iter=20,
                                                 num_random_init=0, batch_size=COUNT, verbose=False), x, y)
    differ = np.abs(ours - theirs).max(axis=(1, 2, 3)) > 1e-5
    assert differ.sum() <= 1
    assert np.abs(theirs - x).max() > 0.9 * epsilon


# Of MOREL's published code, of its paper, with a rate that gets further, and with several constants.
CW_SETTINGS = {
    "published": dict(initial_const=15.0, learning_rate=0.01, max_iter=10, confidence=0.0),
    "paper": dict(initial_const=15.0, learning_rate=0.01, max_iter=10, confidence=1.0),
    "fast": dict(initial_const=15.0, learning_rate=0.05, max_iter=10),
    "constants": dict(initial_const=1e-3, largest_const=1.0, const_factor=5.0, learning_rate=0.05, max_iter=10),
}


@pytest.mark.parametrize("name", CW_SETTINGS)
def test_cw_linf(network, name):
    """The same images broken, at the same distances; images that were wrong already are left alone here."""
    logits_fn, twin, x, y, right = network
    run = jax.jit(lambda attack: attack.run(logits_fn, jax.random.key(0), x, y))
    state = run(CWLinf(**CW_SETTINGS[name]))
    theirs = art_images(CarliniLInfMethod(twin, verbose=False, **CW_SETTINGS[name]), x, y)
    ours = np.asarray(state.x_adv)

    broken = predictions(logits_fn, theirs) != y
    np.testing.assert_array_equal(predictions(logits_fn, ours) != y, broken | ~right)
    np.testing.assert_array_equal(state.found, broken | ~right)
    broken &= right
    assert broken.any()
    distances = [np.abs(images - x).max(axis=(1, 2, 3))[broken] for images in (ours, theirs)]
    np.testing.assert_allclose(*distances, rtol=0.01)
    np.testing.assert_array_equal(ours[~broken], x[~broken])
    np.testing.assert_array_equal(theirs[right & ~broken], x[right & ~broken])

    # In a ball, which ART's attack has not: its images, projected.
    epsilon = 0.9 * float(np.median(distances[1]))
    state = run(CWLinf(**CW_SETTINGS[name], epsilon=epsilon))
    projected = np.clip(theirs, x - epsilon, x + epsilon)
    still_broken = (predictions(logits_fn, projected) != y) & right
    np.testing.assert_array_equal(state.found, still_broken | ~right)
    np.testing.assert_allclose(state.x_adv[still_broken], projected[still_broken], atol=0.01 * epsilon)


@pytest.mark.parametrize(("norm", "art_norm"), [("linf", np.inf), ("l2", 2)])
def test_hopskipjump(network, norm, art_norm):
    """Distances with the same number of queries: ours are no larger, up to the draws, which differ."""
    logits_fn, twin, x, y, right = network
    noise = np.random.default_rng(0).uniform(size=(1, *x.shape[1:])).astype(np.float32)
    right = right & (y != predictions(logits_fn, noise))  # ART finds no start for the others.
    x, y = x[right][:8], y[right][:8]
    asked, predict = [], twin.predict

    def counted(images, *arguments, **options):
        asked.append(len(images))
        return predict(images.astype(np.float32), *arguments, **options)  # ART makes some of them float64.

    twin.predict = counted
    try:
        np.random.seed(0)  # noqa: NPY002 (ART draws from there)
        attack = HopSkipJump(twin, norm=art_norm, max_iter=5, max_eval=1000, init_eval=100, verbose=False)
        theirs = art_images(attack, x, y)
    finally:
        twin.predict = predict
    queries = sum(asked) // len(x)
    attack = OurHopSkipJump(None, queries, norm)
    _, ours = jax.jit(lambda x, y: attack.minimal(logits_fn, jax.random.key(0), x, y))(x, y)
    theirs = np.asarray(known_norm(norm).distance(theirs, x))
    print(f"{norm}, {queries} queries: median distance, ours {np.median(ours):.4f}, theirs {np.median(theirs):.4f}; "
          f"median ratio {np.median(ours / theirs):.3f}")
    assert 0.4 < np.median(ours / theirs) < 1.1
