"""A small random network and real images, labelled as the network sees them."""
import functools

import jax
import numpy as np

from morel_jax import models
from morel_jax.evaluation.trained import as_logits_fn
from tests.small import small_dataset

# Breaks some of the images under every attack, and not all of them.
EPSILON = 0.015


@functools.cache
def network(seed=0, num_classes=10):
    """``logits_fn`` of a ``convnet_small`` whose logits have mean 0, so that it sees several classes."""
    model = models.create("convnet_small", num_classes)
    images = small_dataset().test.images.astype(np.float32) / 255
    variables = jax.jit(model.init)(jax.random.key(seed), images[:1])
    variables["params"]["linear"]["bias"] -= np.mean(jax.jit(as_logits_fn(model, variables))(images), axis=0)
    return as_logits_fn(model, variables)


def data(logits_fn, count):
    """(uint8[count, 28, 28, 1], int32[count]): real images, every fifth with another label than the network's."""
    images = small_dataset(test=count).test.images
    labels = np.array(np.argmax(jax.jit(logits_fn)(images.astype(np.float32) / 255), -1), np.int32)
    labels[::5] = (labels[::5] + 1) % 10
    return images, labels
