"""Random networks of the library, small enough to differentiate in any way, and images for them."""
import functools

import jax
import numpy as np

from morel_jax import losses, models
from tests.models import quick_jit

TINY = {
    "convnet": dict(name="convnet_small", width=4),
    "resnet": dict(name="resnet8", widths=(4, 4, 8)),
    "wide_resnet": dict(name="wide_resnet10_1"),
}
CLASSES = 3


def images_and_labels(n=3, size=8, dtype=np.float32, seed=0):
    random = np.random.default_rng(seed)
    return random.uniform(size=(n, size, size, 3)).astype(dtype), np.arange(n, dtype=np.int32) % CLASSES


@functools.cache
def _variables(kind):
    """A network with the running statistics of some images, so that about half of every layer's units are on."""
    model = models.create(**TINY[kind], num_classes=CLASSES, batch_norm_momentum=0.0)
    x = images_and_labels(8)[0]

    def start(key):
        variables = model.init(key, x)
        return variables | model.apply(variables, x, train=True, mutable=["batch_stats"])[1]

    return quick_jit(start)(jax.random.key(0))


def network(kind, dtype="float32"):
    """(apply, params): ``apply(params, x)`` -> Outputs, with running statistics."""
    model = models.create(**TINY[kind], num_classes=CLASSES, dtype=dtype)
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), _variables(kind))

    def apply(params, x):
        return model.apply(variables | {"params": params}, x)

    return apply, variables["params"]


def logits_fn(kind, dtype="float32"):
    """The network as a function of images alone."""
    apply, params = network(kind, dtype)
    return lambda x: apply(params, x).logits


def cross_entropies(kind, dtype="float32"):
    """(loss_fn, params): ``loss_fn(params, x, y)`` -> float[n]."""
    apply, params = network(kind, dtype)
    return lambda params, x, y: losses.cross_entropy(apply(params, x).logits, y), params
