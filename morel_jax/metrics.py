"""Clean and robust accuracy as exact counts, in batches of one shape."""
import jax
import jax.numpy as jnp
import numpy as np

from morel_jax.attacks.keys import fold_in_each
from morel_jax.data.augment import to_float


def compile_correct(model):
    """A jitted function that tells which examples are classified right, clean and attacked.

    Args:
        model: Flax classifier, applied with running statistics and in float32 whatever it was trained in.

    Returns:
        (variables, attack, images uint8[n, h, w, c], labels int[n], index int[n], key)
        -> (clean bool[n], robust bool[n]); an example's attack depends on ``key`` and its index alone.
    """
    model = model.clone(dtype="float32")

    def correct(variables, attack, images, labels, index, key):
        def logits_fn(x):
            return model.apply(variables, x).logits

        x = to_float(images)
        x_adv = attack(logits_fn, fold_in_each(key, index), x, labels)
        return (jnp.argmax(logits_fn(x), axis=-1) == labels), (jnp.argmax(logits_fn(x_adv), axis=-1) == labels)

    return jax.jit(correct)


def accuracies(correct, variables, attack, split, key, batch_size, after_batch=lambda done: None):
    """Clean and robust accuracy over a split.

    Args:
        correct: what :func:`compile_correct` gave.
        variables: of the classifier.
        attack: pytree, ``attack(logits_fn, key, x, y)``.
        split: Split of m images.
        key: a key; example i is attacked with ``fold_in(key, i)``.
        batch_size: the last batch is filled up and the filling not counted.
        after_batch: called with the number of images done.

    Returns:
        dict of float: ``clean_accuracy`` and ``robust_accuracy`` in [0, 1].
    """
    count = len(split.labels)
    batch_size = min(batch_size, count)
    clean = robust = 0
    for start in range(0, count, batch_size):
        index = np.arange(start, start + batch_size)
        inside = index < count
        rows = np.minimum(index, count - 1)
        clean_right, robust_right = correct(variables, attack, split.images[rows], split.labels[rows], rows, key)
        clean += int(np.sum(np.asarray(clean_right) & inside))
        robust += int(np.sum(np.asarray(robust_right) & inside))
        after_batch(min(start + batch_size, count))
    return {"clean_accuracy": clean / count, "robust_accuracy": robust / count}
