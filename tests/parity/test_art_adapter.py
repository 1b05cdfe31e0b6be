"""ART's own attacks and metrics on our networks in JAX, against our attacks and against ART's PyTorch classifier."""
import jax
import numpy as np
import pytest
import torch
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    CarliniLInfMethod,
    DeepFool,
    FastGradientMethod,
    ProjectedGradientDescent,
    SquareAttack,
)
from art.estimators.classification import PyTorchClassifier
from art.metrics import empirical_robustness, loss_sensitivity

from benchmarks.torch_convnet import convnet_small
from morel_jax.attacks import FGSM, PGD
from morel_jax.interop.art import JAXClassifier
from morel_jax.interop.torch import export_state_dict
from morel_jax.losses import cross_entropy

pytestmark = pytest.mark.parity
EPSILON = 0.1
COUNT = 40


@pytest.fixture(scope="module")
def network(quickstart_network):
    """(logits_fn, our classifier in blocks of 16, ART's own for PyTorch, x, y)."""
    logits_fn, variables, dataset = quickstart_network
    x, y = np.float32(dataset.test.images[:COUNT]) / 255, dataset.test.labels[:COUNT].astype(np.int32)
    classifier = JAXClassifier(logits_fn, x.shape[1:], 10, batch_size=16)
    exported = export_state_dict(variables, "convnet_small")
    weights = {name: torch.from_numpy(tensor) for name, tensor in exported.items()}
    twin = PyTorchClassifier(convnet_small(weights), loss=torch.nn.CrossEntropyLoss(reduction="sum"),
                             input_shape=x.shape[:0:-1], nb_classes=10, clip_values=(0, 1), device_type="cpu")
    return logits_fn, classifier, twin, x, y


def channels_first(x):
    return np.ascontiguousarray(np.moveaxis(x, -1, -3))


def broken(classifier, x, y):
    return np.argmax(classifier.predict(x), -1) != y


@pytest.mark.parametrize(("change", "message"), [
    (lambda x, y: (x, -y - 1), r"y must be one of 0 \.\. 9 for each of the 40 images"),
    (lambda x, y: (x, y + 10), "y must be one of"), (lambda x, y: (x, y[:3]), "y must be one of"),
    (lambda x, y: (x, np.eye(11)[y]), r"one-hot \[40, 10\]; got float64\[40, 11\]"),
    (lambda x, y: (x, y + 0.5), "y must be one of"), (lambda x, y: (x, [str(one) for one in y]), "y must be one of"),
    (lambda x, y: (255 * x, y), "not images in 0 .. 255"), (lambda x, y: (np.uint8(255 * x), y), "got uint8 up to")])
def test_wrong_labels_and_images(network, change, message):
    _, classifier, _, x, y = network
    x, y = change(x, y)
    for function in (classifier.compute_loss, classifier.loss_gradient):
        with pytest.raises(ValueError, match=message):
            function(x, y)


def test_labels_in_a_column(network):
    _, classifier, _, x, y = network
    np.testing.assert_array_equal(classifier.compute_loss(x, y[:, None]), classifier.compute_loss(x, y))


def test_values_and_gradients(network):
    logits_fn, classifier, twin, x, y = network
    images = channels_first(x)
    np.testing.assert_allclose(classifier.predict(x), logits_fn(x), atol=1e-5)
    np.testing.assert_allclose(classifier.predict(x), twin.predict(images), atol=1e-4)
    losses = classifier.compute_loss(x, y)
    np.testing.assert_allclose(losses, cross_entropy(logits_fn(x), y), atol=1e-5)
    np.testing.assert_allclose(classifier.compute_loss(x, np.eye(10)[y], "mean"), losses.mean(), rtol=1e-5)
    one_hot = np.eye(10, dtype=np.float32)[y]
    np.testing.assert_allclose(channels_first(classifier.loss_gradient(x, y)), twin.loss_gradient(images, one_hot),
                               atol=1e-5)
    one, each = classifier.class_gradient(x, 3), classifier.class_gradient(x, y)
    assert one.shape == each.shape == (COUNT, 1, *x.shape[1:])
    every = classifier.class_gradient(x)
    np.testing.assert_allclose(channels_first(every), twin.class_gradient(images), atol=1e-5)
    np.testing.assert_array_equal(every[:, 3:4], one)
    np.testing.assert_array_equal(every[np.arange(COUNT), y][:, None], each)


def test_rows_do_not_depend_on_the_call(network):
    """Blocks have one shape, so an image's result is the same alone, among others, and with none."""
    _, classifier, _, x, y = network
    gradient = classifier.loss_gradient(x, y)
    np.testing.assert_array_equal(classifier.loss_gradient(x[5:6], y[5:6]), gradient[5:6])
    np.testing.assert_array_equal(classifier.predict(x[:17]), classifier.predict(x)[:17])
    assert classifier.predict(x[:0]).shape == (0, 10)
    assert classifier.class_gradient(x[:0]).shape == (0, 10, *x.shape[1:])


@pytest.mark.parametrize(("theirs", "ours"), [
    (lambda c: FastGradientMethod(c, eps=EPSILON, batch_size=COUNT), FGSM(EPSILON)),
    (lambda c: ProjectedGradientDescent(c, eps=EPSILON, eps_step=EPSILON / 10, max_iter=20, num_random_init=0,
                                        batch_size=COUNT, verbose=False),
     PGD(EPSILON, EPSILON / 10, num_steps=20, start="clean")),
])
def test_the_same_images_as_ours(network, theirs, ours):
    """But for one, as rounding may turn the sign of a gradient that is next to zero."""
    logits_fn, classifier, _, x, y = network
    x_adv = theirs(classifier).generate(x, y)
    want = np.asarray(ours(logits_fn, jax.random.key(0), x, y))
    same = np.abs(x_adv - want).max(axis=(1, 2, 3)) < 1e-5
    print(f"\n{type(ours).__name__}: {same.sum()} of {COUNT} images the same")
    assert same.sum() >= COUNT - 1
    np.testing.assert_array_equal(broken(classifier, x_adv, y)[same], broken(classifier, want, y)[same])
    assert broken(classifier, x_adv, y).sum() > broken(classifier, x, y).sum()


@pytest.mark.parametrize("attack", [
    lambda c: DeepFool(c, max_iter=10, nb_grads=4, batch_size=16, verbose=False),
    lambda c: CarliniLInfMethod(c, max_iter=10, learning_rate=0.05, initial_const=15.0, verbose=False),
    lambda c: AutoProjectedGradientDescent(c, eps=0.25, eps_step=0.1, max_iter=5, nb_random_init=1,
                                           batch_size=16, verbose=False),
    lambda c: SquareAttack(c, eps=0.25, max_iter=40, verbose=False),
])
def test_other_attacks_run(network, attack):
    _, classifier, _, x, y = network
    x, y = x[:16], y[:16]
    x_adv = attack(classifier).generate(x.copy(), y)
    assert x_adv.shape == x.shape
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert broken(classifier, x_adv, y).sum() > broken(classifier, x, y).sum()


def test_metrics(network):
    _, classifier, twin, x, y = network
    images = channels_first(x)
    sensitivity = [loss_sensitivity(c, data, np.eye(10, dtype=np.float32)[y]) for c, data in
                   ((classifier, x), (twin, images))]
    np.testing.assert_allclose(*sensitivity, rtol=1e-4)
    robustness = [empirical_robustness(c, data, "fgsm", {"eps_step": 0.05, "eps": 0.3}) for c, data in
                  ((classifier, x), (twin, images))]
    np.testing.assert_allclose(*robustness, rtol=1e-3)
    assert 0 < robustness[0] < 0.3


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda f, c, x: JAXClassifier(f, (28, 28), 10), ValueError, r"image_shape must be \(height, width, channels\)"),
    (lambda f, c, x: JAXClassifier(f, (28, 28, 1), 9), ValueError, r"num_classes must be the network's.* got 9"),
    (lambda f, c, x: JAXClassifier(f, (28, 28, 1), 10, batch_size=0), ValueError, "batch_size must be at least 1"),
    (lambda f, c, x: c.predict(x[:, :20]), ValueError, r"x must have the shape \[n, 28, 28, 1\]"),
    (lambda f, c, x: c.class_gradient(x, 10), ValueError, r"label must be one of 0 \.\. 9"),
    (lambda f, c, x: c.class_gradient(x, [1, 2]), ValueError, r"one for each of the 40"),
    (lambda f, c, x: c.compute_loss(x, x[:, 0, 0, 0], "median"), ValueError, "reduction must be one of none"),
    (lambda f, c, x: c.fit(x, None), NotImplementedError, "weights are fixed"),
    (lambda f, c, x: c.get_activations(x, 0), NotImplementedError, "not its layers"),
])
def test_errors(network, call, error, message):
    logits_fn, classifier, _, x, _ = network
    with pytest.raises(error, match=message):
        call(logits_fn, classifier, x)


def test_it_shows_itself_briefly(network):
    assert repr(network[1]) == "JAXClassifier(image_shape=(28, 28, 1), num_classes=10, batch_size=16)"
