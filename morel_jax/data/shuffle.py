"""The order of the images in an epoch, and batches that mix a data set's own images with extra ones."""
import jax
import numpy as np
from jaxtyping import Array, Int32, Key


def epoch_order(key: Key[Array, ""], epoch: int, count: int, batch_size: int, extra: int = 0,
                extra_share: float = 0.0) -> Int32[np.ndarray, "steps batch_size"]:
    """The examples of an epoch's batches.

    The data set's own images are taken in one permutation, extra images in as many as needed. Both depend on key and
    epoch alone. Without extra images the last, incomplete batch is dropped.

    Args:
        count: number of the data set's own images, numbered from 0.
        batch_size: images per batch.
        extra: number of extra images, numbered from ``count``.
        extra_share: their share of a batch, rounded to whole images.

    Returns:
        ``count // batch_size`` batches; a batch's extra images follow its own.
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
