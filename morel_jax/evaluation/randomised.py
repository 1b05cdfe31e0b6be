"""Networks that answer at random: how they are called, and one to try."""
import dataclasses
import inspect
import math
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, UInt8

from morel_jax import checks
from morel_jax.attacks.keys import example_keys
from morel_jax.attacks.types import Images, Keys, Logits, LogitsFn
from morel_jax.data.augment import to_float
from morel_jax.evaluation.evaluator import as_argument

# Images on which it is seen whether a network answers at random.
_PROBES = 4


def with_noise(logits_fn: LogitsFn, sigma: float) -> jax.tree_util.Partial:
    """A network with Gaussian noise on its images, drawn anew for each key, as in randomised smoothing.

    Args:
        logits_fn: of images alone.
        sigma: standard deviation of the noise, in units of images in [0, 1]; noisy images are not clipped.

    Returns:
        (x, keys[n]) -> logits float[n, classes]; for :func:`~morel_jax.evaluation.evaluate` with ``draws``.

    Raises:
        ValueError: ``sigma`` is not a positive number.

    Reference: Cohen et al., arXiv:1902.02918.
    """
    return jax.tree_util.Partial(_with_noise, checks.radius("sigma", sigma, math.inf), as_argument(logits_fn))


def _with_noise(sigma: ArrayLike, logits_fn: LogitsFn, x: Images, keys: Keys) -> Logits:
    return logits_fn(x + sigma * jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(keys))


@dataclasses.dataclass(frozen=True)
class _OneDraw:
    """A network that answers at random as one of images alone, whose draws are fixed."""
    function: Any

    def __call__(self, *arguments: Any) -> Logits:
        *weights, x = arguments
        return self.function(*weights, x, example_keys(jax.random.key(0), len(x)))

    def __repr__(self) -> str:  # Of which the network's identity is made.
        return repr(self.function)


def one_draw(logits_fn: LogitsFn) -> jax.tree_util.Partial:
    """One fixed draw of a network that is called as ``logits_fn(x, keys)``, a function of images alone."""
    partial = as_argument(logits_fn)
    return jax.tree_util.Partial(_OneDraw(partial.func), *partial.args, **partial.keywords)


def check_call(logits_fn: LogitsFn, images: UInt8[np.ndarray, "n h w c"] | Float[np.ndarray, "n h w c"],
               draws: int) -> None:
    """Checks that a network is called as ``draws`` says, with keys on which its answers depend or with images alone.

    Args:
        images: the first of them are tried.
        draws: 0 for a network of images alone.

    Raises:
        ValueError: it is the other kind of network.
    """
    if draws and not _takes(logits_fn, 2):
        raise ValueError(f"draws must be 0 for a network that takes {inspect.signature(logits_fn)}; one that answers "
                         f"at random takes (x, keys), a key for each image, and got {draws}.")
    if not draws and not _takes(logits_fn, 1) and _takes(logits_fn, 2):
        raise ValueError("draws must be at least 1 for a network that takes keys, whose answers are random; got 0.")
    if draws:
        x = np.asarray(to_float(images[:_PROBES]) if images.dtype == np.uint8 else images[:_PROBES], np.float32)
        one, other = (np.asarray(_asked(as_argument(logits_fn), x, example_keys(jax.random.key(seed), len(x))))
                      for seed in (0, 1))
        if np.array_equal(one, other):  # Never of NaN, of which the evaluation itself speaks.
            raise ValueError("draws must be 0 for a network that answers the same each time; this one gives the same "
                             f"logits for different keys, and got {draws}.")


def _takes(logits_fn: LogitsFn, count: int) -> bool:
    """Whether a function can be called with so many arguments, as far as that can be known."""
    try:
        inspect.signature(logits_fn).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # Some compiled functions have no signature.
        return True
    return True


@jax.jit
def _asked(logits_fn: LogitsFn, x: Images, keys: Keys) -> Logits:
    return logits_fn(x, keys)
