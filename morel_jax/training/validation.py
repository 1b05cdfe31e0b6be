"""Clean and robust accuracy as exact counts, in batches of one shape."""
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int, Int32, Key, PyTree, UInt8

from morel_jax.attacks.keys import fold_in_each
from morel_jax.attacks.types import Images, Labels, Logits, Mask
from morel_jax.data import Split
from morel_jax.data.augment import to_float
from morel_jax.models.precision import PRECISIONS, float32_logits
from morel_jax.sharding import Layout, put

Correct = Callable[..., tuple[Bool[Array, "..."], Bool[Array, "..."]]]


def predicted(logits: Logits) -> Int32[Array, " n"]:
    """Classes by logits; -1, which is never right, where one of them is NaN or infinite."""
    finite = jnp.all(jnp.isfinite(logits), axis=-1)
    return jnp.where(finite, jnp.argmax(logits, axis=-1), -1).astype(jnp.int32)


def build_correct(model: nn.Module, products: str = PRECISIONS["float32"].products) -> Correct:
    """A function that tells which examples are classified right, clean and attacked.

    Args:
        model: Flax classifier, applied with running statistics and in float32 whatever it was trained in.
        products: how an accelerator forms the products, as in ``jax.default_matmul_precision``. A run validates with
            those of its training, which are faster.

    Returns:
        (variables, attack, images uint8[n, h, w, c], labels int[n], index int[n], key)
        -> (clean bool[n], robust bool[n]); an example's attack depends on ``key`` and its index alone.
    """
    def correct(variables: PyTree, attack: Any, images: UInt8[Array, "n h w c"], labels: Labels,
                index: Int[Array, " n"], key: Key[Array, ""]) -> tuple[Mask, Mask]:
        def logits_fn(x: Images) -> Logits:
            return float32_logits(model, variables, x, products)

        x = to_float(images)
        x_adv = attack(logits_fn, fold_in_each(key, index), x, labels)
        return predicted(logits_fn(x)) == labels, predicted(logits_fn(x_adv)) == labels

    return correct


def compile_correct(model: nn.Module, products: str = PRECISIONS["float32"].products,
                    layout: Layout | None = None) -> Correct:
    """What :func:`build_correct` gives for ``model``, jitted.

    Args:
        model, products: as in :func:`build_correct`.
        layout: over whose devices the examples are cut; None: one device.
    """
    return jax.jit(build_correct(model, products), out_shardings=layout.replicated if layout else None)


def accuracies(correct: Correct, variables: PyTree, attack: Any, split: Split, key: Key[Array, "..."], batch_size: int,
               after_batch: Callable[[int], None] = lambda done: None, layout: Layout | None = None) -> dict[str, Any]:
    """Clean and robust accuracy over a split.

    Args:
        correct: what :func:`compile_correct` gave; or a function like it that judges m networks at once and returns
            bool[m, n].
        variables: of the classifier.
        attack: pytree, ``attack(logits_fn, key, x, y)``.
        split: Split of m images.
        key: a key; example i is attacked with ``fold_in(key, i)``.
        batch_size: the last batch is filled up and the filling not counted; so is each, to what the devices divide.
        after_batch: called with the number of images done.
        layout: as given to :func:`compile_correct`.

    Returns:
        dict of float: ``clean_accuracy`` and ``robust_accuracy`` in [0, 1]; of m networks, dict of lists of float.
    """
    count = len(split.labels)
    batch_size = min(batch_size, count)
    if layout is not None:
        batch_size += -batch_size % layout.devices
    clean: Any = 0
    robust: Any = 0
    for start in range(0, count, batch_size):
        index = np.arange(start, start + batch_size)
        inside = index < count
        rows = np.minimum(index, count - 1)
        examples: list[ArrayLike] = [split.images[rows], split.labels[rows], rows]
        if layout is not None:
            examples = [put(array, layout.batch()) for array in examples]
        clean_right, robust_right = correct(variables, attack, *examples, key)
        clean += np.sum(np.asarray(clean_right) & inside, axis=-1)
        robust += np.sum(np.asarray(robust_right) & inside, axis=-1)
        after_batch(min(start + batch_size, count))
    return {"clean_accuracy": (clean / count).tolist(), "robust_accuracy": (robust / count).tolist()}
