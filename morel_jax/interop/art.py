"""Our networks as classifiers of the Adversarial Robustness Toolbox, for its evasion attacks and metrics.

Importing this imports ART (the extra ``art``), which closes all of the process's log handlers.
"""
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from morel_jax import checks
from morel_jax.attacks.types import Images, Labels, Logits, LogitsFn, Values
from morel_jax.losses import cross_entropy

with checks.needing_extra("art", "morel_jax.interop.art"):
    from art.estimators.classification.classifier import ClassGradientsMixin, ClassifierMixin
    from art.estimators.estimator import BaseEstimator, LossGradientsMixin, NeuralNetworkMixin

# Attacks and smoothing may ask a little outside [0, 1]; images in 0 .. 255 are far outside.
_FAR = 16.0


@jax.jit
def _logits(logits_fn: LogitsFn, x: Images) -> Logits:
    return logits_fn(x)


@jax.jit
def _losses(logits_fn: LogitsFn, x: Images, y: Labels) -> Values:
    return cross_entropy(logits_fn(x), y)


@jax.jit
def _loss_gradients(logits_fn: LogitsFn, x: Images, y: Labels) -> Images:
    return jax.grad(lambda x: cross_entropy(logits_fn(x), y).sum())(x)


@jax.jit
def _logit_gradients(logits_fn: LogitsFn, x: Images, labels: Int[Array, "n k"]) -> Float[Array, "n k h w c"]:
    """Gradients of the logits ``labels`` of each image."""
    logits, transpose = jax.vjp(logits_fn, x)
    chosen = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return jax.lax.map(lambda cotangent: transpose(cotangent)[0], chosen.swapaxes(0, 1)).swapaxes(0, 1)


class JAXClassifier(ClassGradientsMixin, ClassifierMixin, LossGradientsMixin, NeuralNetworkMixin, BaseEstimator):
    """A network with fixed weights for ART's attacks and metrics; logits, losses and gradients are JAX's.

    Every call runs in blocks of one shape, the last one padded with zeros, so each function compiles once.

    Args:
        logits_fn: a ``jax.tree_util.Partial`` over its weights, as :func:`morel_jax.evaluation.load` returns, keeps
            them out of the compiled programs.
        image_shape: (h, w, c).
        num_classes: number of logits.
        batch_size: images in a block; ART's own ``batch_size`` does not change it.

    Raises:
        ValueError: image_shape is not three sizes, num_classes is below 2 or not the network's, or batch_size is
            below 1.
    """
    estimator_params = (*BaseEstimator.estimator_params, *NeuralNetworkMixin.estimator_params,
                        *ClassifierMixin.estimator_params)

    def __init__(self, logits_fn: LogitsFn, image_shape: Sequence[int], num_classes: int,
                 batch_size: int = 128) -> None:
        if len(image_shape) != 3:
            raise ValueError(f"image_shape must be (height, width, channels); got {tuple(image_shape)}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
        image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        logits = jax.eval_shape(logits_fn, image)
        logits = getattr(logits, "shape", type(logits).__name__)
        if num_classes < 2 or logits != (1, num_classes):
            raise ValueError(f"num_classes must be the network's, and at least 2; got {num_classes}, and for one image "
                             f"logits of shape {logits}.")
        if not isinstance(logits_fn, jax.tree_util.Partial):
            logits_fn = jax.tree_util.Partial(logits_fn)
        super().__init__(model=logits_fn, clip_values=(0.0, 1.0), channels_first=False)
        self.nb_classes = num_classes
        self._input_shape = tuple(image_shape)
        self._block = batch_size
        self._layer_names = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(h, w, c)."""
        return self._input_shape

    def predict(self, x: Float[np.ndarray, "n h w c"], batch_size: int | None = None,
                **_: Any) -> Float32[np.ndarray, "n classes"]:
        """Logits of images; ``batch_size`` is ART's and changes nothing."""
        return self._in_blocks(_logits, x)

    def compute_loss(self, x: Float[np.ndarray, "n h w c"], y: Int[np.ndarray, "..."], reduction: str = "none",
                     **_: Any) -> Float32[np.ndarray, "..."]:
        """Cross-entropy of each image.

        Args:
            y: int[n], or one-hot [n, num_classes].
            reduction: ``none``, or ``mean`` or ``sum`` over the images.

        Raises:
            ValueError: another reduction, or y are no labels of the images.
        """
        reductions: dict[str, Any] = {"none": np.asarray, "mean": np.mean, "sum": np.sum}
        if reduction not in reductions:
            raise ValueError(f"reduction must be one of {', '.join(reductions)}; got {reduction!r}.")
        return reductions[reduction](self._in_blocks(_losses, x, self._labels(y, len(x))))

    def loss_gradient(self, x: Float[np.ndarray, "n h w c"], y: Int[np.ndarray, "..."],
                      **_: Any) -> Float32[np.ndarray, "n h w c"]:
        """Gradient of each image's own cross-entropy. ART's own classifiers give it divided by n."""
        return self._in_blocks(_loss_gradients, x, self._labels(y, len(x)))

    def class_gradient(self, x: Float[np.ndarray, "n h w c"], label: int | Int[np.ndarray, " n"] | None = None,
                       **_: Any) -> Float32[np.ndarray, "n k h w c"]:
        """Gradients of logits with respect to images.

        Args:
            label: a class for all images, or one per image; None: every class.

        Returns:
            float32[n, num_classes, h, w, c], or [n, 1, h, w, c] where a label was given.

        Raises:
            ValueError: label is not a class, or there is not one per image.
        """
        count = len(x)
        if label is None:
            labels = np.tile(np.arange(self.nb_classes), (count, 1))
        else:
            labels = np.asarray(label)
            if labels.shape not in ((), (count,)) or np.any((labels < 0) | (labels >= self.nb_classes)):
                raise ValueError(f"label must be one of 0 .. {self.nb_classes - 1} for all images, or one for each of "
                                 f"the {count}; got {label}.")
            labels = np.broadcast_to(labels, (count,))[:, None]
        return self._in_blocks(_logit_gradients, x, labels)

    def fit(self, x: np.ndarray, y: np.ndarray, **_: Any) -> None:
        """Raises NotImplementedError: networks are trained by ``morel_jax.training.fit``."""
        raise NotImplementedError("this classifier's weights are fixed; train with morel_jax.training.fit.")

    def get_activations(self, x: np.ndarray, layer: Any, batch_size: int | None = None,
                        framework: bool = False) -> None:
        """Raises NotImplementedError: a logits_fn shows no layers."""
        raise NotImplementedError("this classifier knows its network's logits only, not its layers.")

    def __repr__(self) -> str:
        return (f"JAXClassifier(image_shape={self._input_shape}, num_classes={self.nb_classes}, "
                f"batch_size={self._block})")

    def _labels(self, y: Any, count: int) -> Int[np.ndarray, " n"]:
        """int32[count] of classes or of one-hot rows."""
        y = np.asarray(y)
        if y.shape == (count, self.nb_classes):
            return np.argmax(y, axis=-1).astype(np.int32)
        if (y.shape not in ((count,), (count, 1)) or not np.issubdtype(y.dtype, np.number)
                or not np.isin(y, np.arange(self.nb_classes)).all()):
            raise ValueError(f"y must be one of 0 .. {self.nb_classes - 1} for each of the {count} images, or one-hot "
                             f"[{count}, {self.nb_classes}]; got {y.dtype}{list(y.shape)}, such as {y.ravel()[:8]}.")
        return y.reshape(count).astype(np.int32)

    def _in_blocks(self, function: Callable, x: Any, *rows: np.ndarray) -> np.ndarray:
        """``function(logits_fn, x, *rows)`` with all arrays cut into blocks along their first axis."""
        arrays = [np.asarray(x, np.float32), *rows]
        if arrays[0].shape[1:] != self._input_shape:
            raise ValueError(f"x must have the shape [n, {', '.join(map(str, self._input_shape))}]; got "
                             f"{arrays[0].shape}.")
        if not np.issubdtype(np.asarray(x).dtype, np.floating) or np.any(np.abs(arrays[0]) > _FAR):
            raise ValueError("x must be floats in [0, 1], not images in 0 .. 255 (divide them by 255); got "
                             f"{np.asarray(x).dtype} up to {np.max(arrays[0]):g}.")
        results = []
        for start in range(0, max(len(arrays[0]), 1), self._block):  # No images make one block of padding.
            blocks = [array[start:start + self._block] for array in arrays]
            count = len(blocks[0])
            padded = [np.pad(block, [(0, self._block - count), *[(0, 0)] * (block.ndim - 1)]) for block in blocks]
            results.append(np.asarray(function(self._model, *padded))[:count])
        return np.concatenate(results)
