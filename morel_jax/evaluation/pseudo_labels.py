"""Labels of a trained network for pools of images that have none."""
import io
import os
import zipfile
from pathlib import Path

import numpy as np

from morel_jax import checks
from morel_jax.attacks.types import LogitsFn
from morel_jax.data.extra import find_parts, label_file, map_images
from morel_jax.evaluation.evaluator import Evaluator, as_argument, block_width, count_classes
from morel_jax.evaluation.identity import network_digests
from morel_jax.evaluation.predictions import predict
from morel_jax.files import reading, write_atomically
from morel_jax.progress import AttackProgress


def write_pseudo_labels(logits_fn: LogitsFn, paths: str | os.PathLike, *, cache_dir: str | os.PathLike | None = None,
                        width: int | None = None, progress: AttackProgress | None = None) -> list[Path]:
    """Writes the class that a network gives each image of .npz files beside them, for ``config.data.extra``.

    The labels of ``pool.npz`` go to ``pool.labels``, an .npz file with ``label`` int32[n] and ``network``, its hash.
    Images are read from disk block by block. The same call resumes: files that this network has labelled are left
    alone. Source: Carmon et al., arXiv:1905.13736, who label 500,000 images with a network trained without attacks.

    Args:
        logits_fn: as in :func:`~morel_jax.evaluation.evaluate`.
        paths, cache_dir: as in :func:`morel_jax.data.load_extra`; the files hold ``image`` uint8[n, h, w, c].
        width: rows of the blocks in which the network is evaluated; None: what suits backend and network.
        progress: None shows nothing.

    Returns:
        The files of labels, in the order of the parts.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no images, a file that has labels already, its own or another network's, or logits that are not
            finite. Files that were labelled before that stay.
    """
    progress = progress or AttackProgress(shown=False)
    parts = find_parts(paths)
    pools = [map_images(path, cache_dir) for path in parts]  # What is wrong with the last is found before the first.
    digests = {shape: network_digests(logits_fn, shape)["network"] for shape in {pool.shape[1:] for pool in pools}}
    waiting = [_is_unlabelled(path, digests[pool.shape[1:]]) for path, pool in zip(parts, pools, strict=True)]
    for path, pool, wanted in zip(parts, pools, waiting, strict=True):
        if not wanted:
            continue
        shape = pool.shape[1:]
        count_classes(logits_fn, shape)
        rows = block_width(logits_fn, shape) if width is None else checks.whole_number("width", width, 1)
        network = Evaluator(as_argument(logits_fn), pool, np.zeros(len(pool), np.int32), rows)
        labels = predict(network, np.arange(len(pool)), path.name, progress)
        if len(bad := np.flatnonzero(labels < 0)):
            raise ValueError(f"logits must be finite for an image to have a label; in {path} they are not for "
                             f"{len(bad)} images, the first of them {bad[0]}.")
        content = io.BytesIO()
        np.savez(content, label=labels, network=digests[shape])
        write_atomically(label_file(path), content.getvalue())
    return [label_file(path) for path in parts]


def _is_unlabelled(path: Path, network: str) -> bool:
    """Whether a file still waits for its labels."""
    with zipfile.ZipFile(path) as archive:
        if "label.npy" in archive.namelist():
            raise ValueError(f"{path} has labels already, which are the ones that are trained on.")
    beside = label_file(path)
    if not beside.exists():
        return True
    with reading(beside, "is not a whole file of labels"), np.load(beside, allow_pickle=False) as stored:
        found = str(stored["network"])
    if found != network:
        raise ValueError(f"{beside} has the labels of another network; delete it to label its images again.")
    return False
