"""Accuracy under common corruptions (Hendrycks and Dietterich, arXiv:1903.12261)."""
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tabulate import tabulate

from morel_jax import checks
from morel_jax.attacks.inputs import check_labels
from morel_jax.attacks.types import LogitsFn
from morel_jax.data.corruptions import CORRUPTIONS, SEVERITIES, load_corruption, load_labels
from morel_jax.data.subset import stratified_rows
from morel_jax.evaluation.evaluator import Evaluator, as_argument, block_width, count_classes
from morel_jax.evaluation.identity import fingerprint, network_digests
from morel_jax.evaluation.predictions import predict
from morel_jax.files import DamagedFileError, local_path, make_folder, read_json, write_atomically
from morel_jax.progress import AttackProgress

FILE = "corruptions.json"
_REMEDY = "Delete it and evaluate again."


def evaluate_corruptions(logits_fn: LogitsFn, corruptions_dir: str | os.PathLike, folder: str | os.PathLike, *,
                         corruptions: Sequence[str] = CORRUPTIONS, examples: int = 0,
                         baseline: str | os.PathLike | None = None, image_shape: Sequence[int] | None = None,
                         width: int | None = None, progress: AttackProgress | None = None) -> dict[str, Any]:
    """Accuracy on corrupted images, such as CIFAR-10-C, by corruption and severity.

    Writes ``corruptions.json`` into ``folder`` after each corruption. The same call resumes: a corruption whose file
    has not changed is not evaluated again.

    Args:
        logits_fn: as in :func:`~morel_jax.evaluation.evaluate`.
        corruptions_dir: folder in the published layout; see :mod:`morel_jax.data.corruptions`.
        corruptions: names of the files; by default the published fifteen.
        examples: number of test images at each severity, 0 for all, chosen as :func:`~morel_jax.evaluation.evaluate`
            does.
        baseline: ``corruptions.json`` of the network whose errors those of this one are divided by.
        image_shape: (h, w, c) that the images must have; None: any.
        width: rows of the blocks in which the network is evaluated; None: what suits backend and network.
        progress: None shows nothing.

    Returns:
        The content of ``corruptions.json``. ``corruptions`` by name: ``accuracies`` at severities 1 to 5, ``error``,
        their mean subtracted from 1, and ``non_finite``, on how many images the logits are NaN or infinite, which
        counts as wrong. ``accuracies``: the means over the corruptions, by severity. ``mce``, the mean corruption
        error: the mean of ``error`` over the corruptions, not divided by any baseline, as is usual on CIFAR-10-C. With
        ``baseline`` also ``relative_mce``, the mean over the corruptions of ``error`` over the baseline's, which is
        ImageNet-C's mCE where the baseline is its AlexNet. ``examples`` and ``settings``.

    Raises:
        ValueError: files, labels or numbers that cannot be used, or a folder with another network's results.
        OSError: the folder or a file in it is not there.
        DamagedFileError: ``corruptions.json`` is not what was written.
    """
    labels = load_labels(corruptions_dir)
    count = len(labels) // SEVERITIES
    examples = checks.whole_number("examples", examples, 0, count)
    files = {name: load_corruption(corruptions_dir, name, len(labels)) for name in corruptions}
    if not files:
        raise ValueError("corruptions must name at least one corruption; got none.")
    shape = tuple(image_shape or next(iter(files.values())).shape[1:])
    for name, images in files.items():
        if images.shape[1:] != shape:
            raise ValueError(f"{local_path(corruptions_dir, 'corruptions_dir') / name}.npy must have images of shape "
                             f"{shape}; got {images.shape[1:]}.")
    check_labels(labels, len(labels), count_classes(logits_fn, shape), "labels.npy")
    width = block_width(logits_fn, shape) if width is None else checks.whole_number("width", width, 1)
    divisors = None if baseline is None else _baseline(local_path(baseline, "baseline"), corruptions)

    rows = np.concatenate([severity * count + stratified_rows(labels[:count], examples)
                           for severity in range(SEVERITIES)])
    settings = network_digests(logits_fn, shape) | {"width": width, "platform": jax.default_backend()}
    path, logits_fn = local_path(folder, "folder") / FILE, as_argument(logits_fn)
    progress = progress or AttackProgress(shown=False)
    finished = _finished(path, settings)
    make_folder(path.parent)
    result: dict[str, Any] = {"examples": len(rows) // SEVERITIES, "settings": settings, "corruptions": {}}
    for name, images in files.items():
        # Of all that the accuracies depend on, but for the network.
        data = fingerprint([images, labels, rows])
        if finished.get(name, {}).get("data") != data:
            network = Evaluator(logits_fn, images, labels, width)
            finished[name] = {"data": data} | _evaluated(network, rows, name, progress)
        result["corruptions"][name] = finished[name]
        write_atomically(path, json.dumps(result | {"corruptions": finished}, indent=1))
    errors = {name: entry["error"] for name, entry in result["corruptions"].items()}
    result["accuracies"] = np.mean([entry["accuracies"] for entry in result["corruptions"].values()], 0).tolist()
    result["mce"] = float(np.mean(list(errors.values())))
    if divisors is not None:
        result["relative_mce"] = float(np.mean([errors[name] / divisors[name] for name in errors]))
    write_atomically(path, json.dumps(result, indent=1))
    return result


def _evaluated(network: Evaluator, rows: np.ndarray, name: str, progress: AttackProgress) -> dict[str, Any]:
    """The entry of one corruption, whose images at ``rows`` are those of all severities one after another."""
    found = predict(network, rows, name, progress)
    right = found == network.labels[rows]
    accuracies = right.reshape(SEVERITIES, -1).mean(1)
    return {"accuracies": accuracies.tolist(), "error": float(1 - accuracies.mean()),
            "non_finite": int(np.sum(found == -1))}


def _finished(path: Path, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The corruptions that an earlier call finished, by name."""
    if not path.exists():
        return {}
    stored = _read(path)
    # A program's hash is known within one version of JAX.
    different = [name for name in settings.keys() & stored["settings"].keys()
                 if settings[name] != stored["settings"][name]]
    if different:
        raise ValueError(f"{path} holds an evaluation with another {', '.join(sorted(different))}; give another folder "
                         "or move the file away.")
    return stored["corruptions"]


def _read(path: Path) -> dict[str, Any]:
    stored = read_json(path, _REMEDY, {"settings": dict, "corruptions": dict})
    for name, entry in stored["corruptions"].items():
        if not isinstance(entry, dict):
            raise DamagedFileError(f"{path} must have an object for {name}; got {entry!r}. {_REMEDY}")
    return stored


def _baseline(path: Path, corruptions: Sequence[str]) -> dict[str, float]:
    entries = _read(path)["corruptions"]
    errors = {name: entries.get(name, {}).get("error") for name in corruptions}
    for name, error in errors.items():
        if not isinstance(error, float) or not 0 < error <= 1:
            raise ValueError(f"baseline {path} must give {name} an error in (0, 1]; got {error!r}.")
    return errors


def to_markdown(result: Mapping[str, Any], title: str) -> str:
    """The table of what :func:`evaluate_corruptions` returned, as Markdown."""
    rows = [(name, *entry["accuracies"], 1 - entry["error"]) for name, entry in result["corruptions"].items()]
    rows.append(("mean", *result["accuracies"], 1 - result["mce"]))
    table = tabulate([(name, *(f"{100 * share:.2f}" for share in shares)) for name, *shares in rows],
                     ("accuracy, %", *map(str, range(1, SEVERITIES + 1)), "mean"), tablefmt="github",
                     disable_numparse=True)
    text = (f"## {title}: common corruptions\n\n{result['examples']} images at each of {SEVERITIES} severities. Mean "
            f"corruption error {100 * result['mce']:.2f} %, the mean over corruptions and severities")
    if "relative_mce" in result:
        text += f"; {100 * result['relative_mce']:.2f} % of the baseline's, in the mean over corruptions"
    non_finite = sum(entry["non_finite"] for entry in result["corruptions"].values())
    if non_finite:
        text += f". On {non_finite} images the logits are not finite, which counts as wrong"
    return f"{text}.\n\n{table}\n"
