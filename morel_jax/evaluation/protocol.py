"""An evaluation: attacks by name, run on what is left of a data set, judged, kept and summed up."""
import json

import jax
import jax.numpy as jnp
import numpy as np

from morel_jax import checks
from morel_jax.attacks.keys import fold_in_name
from morel_jax.data.dataset import check_arrays
from morel_jax.data.subset import stratified_rows
from morel_jax.evaluation.identity import fingerprint, floats, network_record
from morel_jax.evaluation.ledger import Images, Ledger, Row
from morel_jax.evaluation.pool import Pool, as_argument, block_width, clean_logits
from morel_jax.evaluation.progress import Silent
from morel_jax.evaluation.suite import checked_threat, plan
from morel_jax.evaluation.summary import summarise
from morel_jax.files import local_path, write_atomically


def check_data(logits_fn, images, labels):
    """Raises ValueError, naming rule and value, unless images and labels can be judged; returns the number of classes.

    Args:
        logits_fn: images float32[n, h, w, c] -> logits float[n, classes].
        images: uint8[n, h, w, c], or floats in [0, 1].
        labels: int[n] in 0 .. classes - 1.
    """
    check_arrays(images, labels)
    if images.dtype != np.uint8:
        if not jnp.issubdtype(images.dtype, jnp.floating):  # NumPy does not count bfloat16.
            raise ValueError(f"images must be uint8 or floats in [0, 1]; got {images.dtype}.")
        low, high = float(np.min(images)), float(np.max(images))
        if not (low >= 0 and high <= 1):
            raise ValueError(f"images must be in [0, 1]; got values from {low:.9g} to {high:.9g}.")
    logits = _shape_of_logits(logits_fn, images)
    if len(logits) != 2 or logits[0] != 1:
        raise ValueError(f"logits_fn must map images [n, h, w, c] to logits [n, classes]; got {logits} for one image.")
    low, high = int(np.min(labels)), int(np.max(labels))
    if low < 0 or high >= logits[1]:
        raise ValueError(f"labels must be in 0 .. {logits[1] - 1}, the network's classes; got {low} to {high}.")
    return logits[1]


def _shape_of_logits(logits_fn, images):
    image = jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32)
    found = jax.eval_shape(logits_fn, image)
    if not isinstance(found, jax.ShapeDtypeStruct):
        hint = "; give lambda x: network(x).logits" if hasattr(found, "logits") else ""
        raise ValueError(f"logits_fn must return one array, the logits; got {type(found).__name__}{hint}.")
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise ValueError(f"logits_fn must return floats; got {found.dtype}.")
    return found.shape


def _check_attacks(entries, image_shape, count):
    """Raises ValueError, naming the attack, where one cannot work on a network of ``count`` classes.

    A step of each is traced on a network that is a constant, so that no attack finds out after hours of others.
    """
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    image, label = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)

    def logits_fn(x):
        return jnp.zeros((x.shape[0], count), x.dtype)

    for entry in entries:
        try:
            jax.eval_shape(lambda keys, x, y, attack=entry.attack: attack.advance(
                logits_fn, keys, x, y, attack.first(logits_fn, keys, x, y)), keys, image, label)
        except ValueError as error:
            raise ValueError(f"attack {entry.name}, on {count} classes: {error}") from error


def _clean_predictions(logits_fn, images, index, width, name="logits_fn"):
    """int32[m] of the examples ``index``.

    Raises:
        ValueError: a logit is NaN or infinite: such an answer is neither right nor wrong.
    """
    logits = clean_logits(logits_fn, lambda rows: floats(images, rows), index, width)
    wild = np.flatnonzero(~np.isfinite(logits).all(axis=-1))
    if len(wild):
        raise ValueError(f"{name} must give finite logits on the images; got NaN or infinite ones for {len(wild)} "
                         f"of {len(index)}, the first for image {index[wild[0]]}.")
    return logits.argmax(-1).astype(np.int32)


def evaluate(logits_fn, images, labels, attacks, folder, *, epsilon, step_size=None, norm="linf", variant="paper",
             seed=0, examples=0, surrogate=None, batch_size=None, width=None, save_images=False, progress=None):
    """Runs attacks on a network and sums up what is left of its accuracy.

    Everything goes into ``folder``: ``settings.json``, ``ledger.csv`` (one row an example and attack) and
    ``summary.json``. A call that was killed is repeated to go on where it was; the results are the same bit for bit,
    whatever ``batch_size`` and however many devices. More attacks, or more examples, can be added by later calls.

    Args:
        logits_fn: images float32[n, h, w, c] in [0, 1] -> logits float32[n, classes]; a ``jax.tree_util.Partial`` over
            its weights, as :func:`morel_jax.evaluation.load` returns, keeps them out of the compiled programs.
        images: uint8[n, h, w, c], or floats in [0, 1].
        labels: int[n].
        attacks: names, or pairs of a name and an attack of one's own; see :func:`morel_jax.evaluation.suite.plan`.
        folder: path.
        epsilon: radius, in units of images in [0, 1].
        step_size: of PGD, same units; None: epsilon / 10, as in the paper.
        norm: ``linf`` or ``l2``.
        variant: ``paper`` or ``reference``: how CW-Linf is set up.
        seed: of all random draws, in 0 .. 2**32 - 1; an example's draws depend on it, on the attack's name and on its
            index alone.
        examples: only so many, taken as :func:`morel_jax.data.subset.stratified_order` has them: the classes in
            proportion, and a larger number holds the images of a smaller one; 0: all.
        surrogate: ``logits_fn`` of the network that ``transfer`` attacks are crafted on.
        batch_size: examples under way at a time; None: what suits the devices.
        width: rows in which the network is evaluated; None: what suits backend and network. The one number here that
            changes rounding.
        save_images: keep the adversarial images under ``folder/adversarial``.
        progress: a :class:`~morel_jax.evaluation.progress.Silent` or one of its kind; None: nothing is shown.

    Returns:
        dict, the content of ``summary.json``: what :func:`~morel_jax.evaluation.summary.summarise` returns, and the
        ``settings``.

    Raises:
        ValueError: images, labels, names, numbers or surrogate that cannot be used, an attack that needs more classes,
            logits of the clean images that are not finite, or a folder of another evaluation. Nothing has been written
            then. A DamagedFileError, one too: a file in the folder is not as it was written.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    count = check_data(logits_fn, images, labels)
    examples = checks.whole_number("examples", examples, 0, len(images))
    batch_size, width = (None if number is None else checks.whole_number(name, number, 1)
                         for name, number in (("batch_size", batch_size), ("width", width)))
    seed, folder = checks.seed(seed), local_path(folder, "folder")
    threat = checked_threat(epsilon, step_size, norm, variant, images.shape[1:])
    todo = plan(attacks, threat)
    if any(entry.transfer for entry in todo.entries.values()):
        if surrogate is None:
            raise ValueError("transfer attacks need a surrogate, the network that they are crafted on; got none.")
        others = _shape_of_logits(surrogate, images)[-1]
        if others != count:
            raise ValueError(f"the surrogate must have the network's {count} classes; got one with {others}.")
    _check_attacks(todo.entries.values(), images.shape[1:], count)
    width = width or block_width(logits_fn, images.shape[1:])

    index = stratified_rows(labels, examples)
    clean = _clean_predictions(logits_fn, images, index, width)
    settings = {
        "epsilon": threat.epsilon, "step_size": threat.step_size, "norm": norm, "variant": variant, "seed": seed,
        "width": width, "platform": jax.default_backend(), "data": fingerprint([images, labels]),
    } | network_record(logits_fn, images, labels, width)
    if surrogate is not None:
        _clean_predictions(surrogate, images, index, width, "surrogate")
        settings |= network_record(surrogate, images, labels, width, "surrogate")
    run = _Evaluation(as_argument(logits_fn), as_argument(surrogate) if surrogate is not None else None,
                      lambda rows: floats(images, rows), labels.astype(np.int32), width, batch_size,
                      progress or Silent(), settings, folder)
    summary = run.all(todo, index, clean, images.shape if save_images else None)
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1))
    return summary


class _Evaluation:
    """The state of one call of :func:`evaluate`."""

    def __init__(self, network, surrogate, floats, labels, width, batch_size, progress, settings, folder):
        self._network, self._surrogate, self._floats, self._labels = network, surrogate, floats, labels
        self._width, self._batch_size, self._progress, self._settings = width, batch_size, progress, settings
        self.ledger = Ledger(folder, settings)

    def all(self, todo, index, clean, images_shape):
        """Runs the plan on the examples ``index``, whose clean predictions are given; returns the summary."""
        self._clean = dict(zip(index.tolist(), clean.tolist(), strict=True))
        right = clean == self._labels[index]
        # An ensemble last: it finds the rows that its members have as attacks of their own.
        for names in sorted(todo.columns.values(), key=len):
            alive = right.copy()
            for name in names:
                self._entry(todo.entries[name], index[alive], index[~right], images_shape)
                rows = self.ledger.rows(name)
                alive &= np.array([one not in rows or not rows[one].broken for one in index])
        self.ledger.sort(todo.entries)
        self.ledger.close()
        return summarise(self.ledger, todo.columns, index, right) | {"settings": self._settings}

    def _entry(self, entry, alive, misclassified, images_shape):
        known = self.ledger.rows(entry.name)
        self.ledger.add([Row.misclassified(entry.name, index, self._labels[index], self._clean[index])
                         for index in misclassified if index not in known])
        waiting = [index for index in alive if index not in known]
        if not waiting:
            return
        kept = Images(self.ledger.folder / "adversarial", entry.name, images_shape) if images_shape else None
        self._progress.begin(entry.name, len(alive) - len(waiting), len(alive))

        def report(finished):
            if kept:
                kept.add(finished)
            rows = [Row.attacked(entry.name, self._labels[one.index], self._clean[one.index], one) for one in finished]
            self.ledger.add(rows)
            self._progress.advance(len(rows), sum(row.broken for row in rows))

        key = fold_in_name(jax.random.key(self._settings["seed"]), entry.name)
        crafted_on = self._surrogate if entry.transfer else self._network
        pool = Pool(entry.attack, crafted_on, self._network, key, self._floats, self._labels, entry.radius,
                    self._width, self._settings["norm"])
        pool.run(waiting, report, self._batch_size)
        self._progress.end()
