import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax import models
from morel_jax.attacks import PGD
from morel_jax.data import Split
from morel_jax.training.validation import accuracies, compile_correct, predicted
from tests.small import images_and_labels, mostly_slow


@pytest.fixture(scope="module")
def judged():
    model = models.create("convnet_small", 4)
    images, _ = images_and_labels(count=23, size=8, channels=1)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    logits = jax.jit(model.apply)(variables, images.astype(np.float32) / 255).logits
    labels = np.array(logits.argmax(-1), np.int32)
    labels[:6] = (labels[:6] + 1) % 4  # Six wrong of 23.
    return compile_correct(model), variables, Split(images, labels)


@pytest.mark.parametrize("batch_size", mostly_slow([1, 10, 23, 100], 1, 10))
def test_counts_are_exact_for_any_batch_size(judged, batch_size):
    correct, variables, split = judged
    found = accuracies(correct, variables, PGD(np.float32(0.03), np.float32(0.01), num_steps=2), split,
                       jax.random.key(0), batch_size)
    assert found["clean_accuracy"] == 17 / 23
    assert found["robust_accuracy"] == accuracies(
        correct, variables, PGD(np.float32(0.03), np.float32(0.01), num_steps=2), split, jax.random.key(0), 5
    )["robust_accuracy"]


def test_radius_zero_is_clean_accuracy(judged):
    correct, variables, split = judged
    found = accuracies(correct, variables, PGD(np.float32(0), np.float32(0), num_steps=1), split, jax.random.key(0), 10)
    assert found["robust_accuracy"] == found["clean_accuracy"]


def test_progress_is_told(judged):
    correct, variables, split = judged
    done = []
    accuracies(correct, variables, PGD(np.float32(0), np.float32(0), num_steps=1), split, jax.random.key(0), 10,
               done.append)
    assert done == [10, 20, 23]


def test_logits_that_are_not_finite_are_never_right(judged):
    logits = np.array([[0, 2, 1], [np.nan, 0, 0], [np.inf, 0, 0], [0, 0, -np.inf]], np.float32)
    np.testing.assert_array_equal(predicted(logits), [1, -1, -1, -1])
    correct, variables, split = judged
    broken = jax.tree.map(lambda leaf: leaf * np.nan, variables)
    found = accuracies(correct, broken, PGD(np.float32(0.03), np.float32(0.01), num_steps=2),
                       Split(split.images, np.zeros_like(split.labels)), jax.random.key(0), 23)
    assert found == {"clean_accuracy": 0, "robust_accuracy": 0}


def test_several_networks_at_once(judged):
    correct, variables, split = judged
    attack, keys = PGD(np.float32(0.03), np.float32(0.01), num_steps=2), jax.random.split(jax.random.key(0), 2)
    other = jax.tree.map(jnp.negative, variables)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), variables, other)
    every = jax.vmap(correct, in_axes=(0, None, None, None, None, 0))
    found = accuracies(every, both, attack, split, keys, 5)
    for number, own in enumerate((variables, other)):
        alone = accuracies(correct, own, attack, split, keys[number], 5)
        assert {name: values[number] for name, values in found.items()} == alone
