"""A network on a data set, evaluated in blocks of one shape."""
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, UInt8

from morel_jax.attacks.draws import mean_over_draws
from morel_jax.attacks.inputs import check_logits
from morel_jax.attacks.keys import fold_in_each
from morel_jax.attacks.types import Images, KeyOrKeys, Logits, LogitsFn
from morel_jax.data.augment import to_float
from morel_jax.models.precision import PRECISIONS
from morel_jax.targets.flops import count_flops

Index = Int[np.ndarray, " m"]   # Places of examples in the data set.
Flags = Bool[np.ndarray, " m"]  # One per example.

# Rows of a block: few for a large network on a CPU core, which works best within its cache; many for an accelerator.
_CPU_WIDTH, _CPU_WIDTH_LARGE, _LARGE_FLOPS = 16, 8, 1e8
_ACCELERATOR_WIDTH = 256


@dataclasses.dataclass(frozen=True)
class _WithFullProducts:
    """A function whose products of float32 numbers no accelerator shortens: verdicts depend on its answers."""
    function: Any

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        with jax.default_matmul_precision(PRECISIONS["float32"].products):
            return self.function(*arguments, **keywords)

    def __repr__(self) -> str:  # Of which the network's identity is made.
        return repr(self.function)


def as_argument(logits_fn: LogitsFn) -> jax.tree_util.Partial:
    """``logits_fn`` in a form that compiled functions take as an argument, with full products of float32 numbers.

    Its weights are leaves where it has any.
    """
    partial = logits_fn if isinstance(logits_fn, jax.tree_util.Partial) else jax.tree_util.Partial(logits_fn)
    if isinstance(partial.func, _WithFullProducts):
        return partial
    return jax.tree_util.Partial(_WithFullProducts(partial.func), *partial.args, **partial.keywords)


def mean_logits(networks: Sequence[LogitsFn]) -> jax.tree_util.Partial:
    """Several networks as one, whose logits are the mean of theirs; transfer attacks are crafted on it.

    Reference: the ensemble in logits of Dong et al., arXiv:1710.06081, section 3.4, with equal weights.
    """
    if len(networks) == 1:
        return as_argument(networks[0])
    return as_argument(jax.tree_util.Partial(_mean_logits, tuple(map(as_argument, networks))))


def _mean_logits(networks: tuple[LogitsFn, ...], x: Images) -> Logits:
    logits = [network(x) for network in networks]
    if len({one.shape for one in logits}) > 1:
        raise ValueError("surrogates must have the same classes; got networks with "
                         f"{', '.join(str(one.shape[-1]) for one in logits)}.")
    return sum(logits[1:], logits[0]) / len(logits)


def majority(logits_fn: LogitsFn, key: KeyOrKeys, index: Int[Array | np.ndarray, " n"],
             draws: int) -> jax.tree_util.Partial:
    """The verdict of a network that answers at random on the examples ``index``, as a function of their images.

    Args:
        logits_fn: called as ``logits_fn(x, keys)``.
        key: example i is asked with keys that depend on it and on i alone, the same for each of its images.
        index: the rows' places in the data set.
        draws: answers for each image.

    Returns:
        images of those examples -> float[n, classes], the share of the draws in which each class leads; NaN for an
        example if a logit of any draw is NaN or infinite. Of classes with the same share argmax takes the first.
    """
    return jax.tree_util.Partial(_shares, draws, logits_fn, key, index)


def _shares(draws: int, logits_fn: LogitsFn, key: KeyOrKeys, index: Int[Array, " n"],
            x: Images) -> Float[Array, "n classes"]:
    def vote(network: LogitsFn) -> Float[Array, "n classes"]:
        logits = network(x)
        chosen = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])
        return jnp.where(jnp.all(jnp.isfinite(logits), axis=-1, keepdims=True), chosen, jnp.nan)

    return mean_over_draws(vote, logits_fn, fold_in_each(key, index), draws)


def block_width(logits_fn: LogitsFn, image_shape: Sequence[int], device: jax.Device | None = None) -> int:
    """Rows of a block on ``device`` (None: the first at hand), for a network on images of shape (h, w, c)."""
    if (device or jax.local_devices()[0]).platform != "cpu":
        return _ACCELERATOR_WIDTH
    flops = count_flops(lambda f, x: f(x), as_argument(logits_fn), jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    return _CPU_WIDTH if flops < _LARGE_FLOPS else _CPU_WIDTH_LARGE


def count_classes(logits_fn: LogitsFn, image_shape: Sequence[int]) -> int:
    """Classes of a network on images of shape (h, w, c); ValueError if it does not return logits."""
    logits = jax.eval_shape(logits_fn, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    check_logits(logits, 1)
    return logits.shape[1]


@jax.jit
def _logits(logits_fn: LogitsFn, x: Images) -> Logits:
    return logits_fn(x)


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """A network and a data set. All is computed in blocks of ``width`` rows, by one compiled program.

    Attributes:
        logits_fn: a ``jax.tree_util.Partial``.
        images: uint8, or floats in [0, 1].
        width: rows of a block; another width may round differently.
        draws: of a network that is called as ``logits_fn(x, keys)``, whose verdicts are by :func:`majority`; 0: the
            network takes images alone.
        key: of the draws.
    """
    logits_fn: Any
    images: UInt8[np.ndarray, "n h w c"] | Float[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"]
    width: int
    draws: int = 0
    key: Any = None

    def verdict(self, index: Index, logits_fn: Any = None) -> jax.tree_util.Partial:
        """The network that judges the examples ``index``, a function of their images: itself, or its majority.

        Args:
            logits_fn: the network on a device; None: as it is.
        """
        logits_fn = self.logits_fn if logits_fn is None else logits_fn
        return majority(logits_fn, self.key, index, self.draws) if self.draws else logits_fn

    def x(self, index: Index) -> Float32[np.ndarray, "m h w c"]:
        """The images ``index``, in [0, 1]."""
        rows = self.images[index]
        return np.asarray(to_float(rows)) if self.images.dtype == np.uint8 else rows.astype(np.float32)

    def map(self, function: Callable[[Index], Any], index: Index,
            on_progress: Callable[[int], None] | None = None) -> Any:
        """What ``function`` returns for the examples ``index``: a pytree of NumPy arrays with m rows.

        Args:
            function: int[width], places in the data set -> pytree of arrays with ``width`` rows.
            index: the last block is filled up with examples whose results are dropped.
            on_progress: called with the number of examples that are done, after each block.
        """
        parts = []
        for first in range(0, len(index), self.width):
            parts.append(jax.device_get(function(np.resize(index[first:first + self.width], self.width))))
            if on_progress is not None:
                on_progress(min(first + self.width, len(index)))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:len(index)], *parts)

    def logits(self, index: Index, compiled: bool = True) -> Float[np.ndarray, "m classes"]:
        """Logits on the images ``index``, or the shares of :func:`majority`.

        Args:
            compiled: False for a network that JAX cannot trace.
        """
        call = _logits if compiled else lambda network, x: network(x)
        return self.map(lambda rows: call(self.verdict(rows), self.x(rows)), index)
