"""Images beside a data set's own, such as synthetic ones, and batches that mix both."""
import pathlib

import jax
import numpy as np

from morel_jax.data.dataset import Split


def load_extra(path, like, num_classes):
    """Extra training images from an ``.npz`` file with ``image`` uint8[n, h, w, c] and ``label`` int[n].

    That is the layout in which the generated images of Gowal et al. (arXiv:2110.09468) are published.

    Args:
        path: of the file.
        like: Split whose image shape they must have.
        num_classes: every label must be below it.

    Returns:
        Split of the images of ``like`` and, behind them, the extra ones.

    Raises:
        FileNotFoundError: no such file.
        ValueError: other arrays, shapes or labels than those.
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"config.data.extra must be an .npz file with image and label; got {path!r}.")
    with np.load(path) as arrays:
        if not {"image", "label"} <= set(arrays.files):
            raise ValueError(f"{path} must hold arrays image and label; got {', '.join(arrays.files)}.")
        images, labels = arrays["image"], arrays["label"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != like.images.shape[1:]:
        raise ValueError(f"image in {path} must be uint8[n, {', '.join(map(str, like.images.shape[1:]))}]; "
                         f"got {images.dtype}{list(images.shape)}.")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"label in {path} must be int[{len(images)}]; got {labels.dtype}{list(labels.shape)}.")
    if not len(labels) or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"label in {path} must be in 0 .. {num_classes - 1}, at least one of them; got "
                         + (f"{labels.min()} .. {labels.max()}." if len(labels) else "none."))
    return Split(np.concatenate([like.images, images]), np.concatenate([like.labels, labels.astype(np.int32)]))


def epoch_order(key, epoch, count, batch_size, extra=0, extra_share=0.0):
    """The examples of an epoch's batches.

    Of the data set's own images a permutation, of the extra ones as many permutations as it takes; both depend on key
    and epoch alone. Without extra images the last, incomplete batch is dropped.

    Args:
        key: a key.
        epoch: int.
        count: the data set's own images, numbered from 0.
        batch_size: images of a batch.
        extra: how many extra images there are, numbered from ``count``.
        extra_share: of a batch, rounded to whole images.

    Returns:
        int32[count // batch_size, batch_size]; a batch's extra images stand behind its own.
    """
    steps, key = count // batch_size, jax.random.fold_in(key, epoch)
    from_extra = round(batch_size * extra_share)
    own = np.asarray(jax.random.permutation(key, count)[:steps * (batch_size - from_extra)], np.int32)
    batches = [own.reshape(steps, batch_size - from_extra)]
    if from_extra:
        rounds = -(-steps * from_extra // extra)
        drawn = np.concatenate([np.asarray(jax.random.permutation(jax.random.fold_in(key, number), extra), np.int32)
                                for number in range(rounds)])
        batches.append(count + drawn[:steps * from_extra].reshape(steps, from_extra))
    return np.concatenate(batches, axis=1)
