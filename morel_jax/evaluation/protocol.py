"""An evaluation: runs attacks by name, checks and records their results, and sums them up."""
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from morel_jax import checks
from morel_jax.attacks.inputs import check_finite, check_images, check_labels
from morel_jax.attacks.keys import fold_in_name
from morel_jax.attacks.types import LogitsFn, OwnLoss
from morel_jax.data.dataset import check_arrays
from morel_jax.data.subset import stratified_rows
from morel_jax.evaluation.evaluator import Evaluator, Flags, Index, as_argument, block_width, count_classes, mean_logits
from morel_jax.evaluation.identity import fingerprint, loss_record, network_record
from morel_jax.evaluation.ledger import Ledger, Row
from morel_jax.evaluation.pool import Finished, Pool
from morel_jax.evaluation.randomised import check_call, one_draw
from morel_jax.evaluation.saved_images import SavedImages
from morel_jax.evaluation.suite import SuiteAttack, build_suite, check_attacks, checked_threat
from morel_jax.evaluation.summary import summarise
from morel_jax.files import local_path, write_atomically
from morel_jax.progress import AttackProgress

# Of the key by which random networks are judged; no attack's name.
_VERDICT = "the verdict"


def evaluate(logits_fn: LogitsFn, images: UInt8[np.ndarray, "n h w c"] | Float[np.ndarray, "n h w c"],
             labels: Int[np.ndarray, " n"], attacks: Sequence[str | tuple[str, Callable]], folder: str | os.PathLike, *,
             epsilon: float, step_size: float | None = None, norm: str = "linf", variant: str = "paper", seed: int = 0,
             examples: int = 0, surrogate: LogitsFn | Sequence[LogitsFn] | None = None, batch_size: int | None = None,
             width: int | None = None, save_images: bool = False, progress: AttackProgress | None = None,
             draws: int = 0, loss: OwnLoss | None = None) -> dict[str, Any]:
    """Runs attacks on a network and sums up its robust accuracy.

    Everything goes into ``folder``: ``settings.json``, ``ledger.csv`` (one row per example and attack) and
    ``summary.json``. The same call resumes a killed evaluation. The results are the same bit for bit, whatever
    ``batch_size`` and the number of devices. Later calls can add attacks or examples.

    Args:
        logits_fn: a ``jax.tree_util.Partial`` over its weights, as :func:`morel_jax.evaluation.load` returns, keeps
            them out of the compiled programs.
        images: uint8, or floats in [0, 1].
        attacks: names, or pairs of a name and a custom attack; see :func:`morel_jax.evaluation.suite.build_suite`.
        epsilon: radius, in units of images in [0, 1].
        step_size: of PGD, same units; None: epsilon / 10, as in the paper.
        norm: ``linf`` or ``l2``.
        variant: of CW-Linf, ``paper`` or ``reference``.
        seed: in 0 .. 2**32 - 1; an example's random draws depend on it, the attack's name and its index alone.
        examples: number of images, 0 for all; the first ones of :func:`morel_jax.data.subset.stratified_order`, which
            has the classes in proportion.
        surrogate: ``logits_fn`` of the network that ``transfer`` attacks are crafted on, or a list of several, on the
            mean of whose logits they are.
        batch_size: examples under way at a time; None: what suits the devices.
        width: rows of the blocks in which the network is evaluated; None: what suits backend and network. It alone
            changes rounding.
        save_images: keep the adversarial images under ``folder/adversarial``.
        progress: None shows nothing.
        draws: of a network that answers at random and is called as ``logits_fn(x, keys)``, with keys[n], one per
            example: how many draws vote on each verdict. They depend on ``seed`` and the example's index alone. 0: the
            network answers the same each time and takes images alone.
        loss: a function of logits and labels -> float[n], which attacks of a name with ``-loss`` climb.

    Returns:
        The content of ``summary.json``: what :func:`~morel_jax.evaluation.summary.summarise` returns, and ``settings``.

    Raises:
        ValueError: images, labels, names, numbers, surrogate or loss that cannot be used, an attack that needs more
            classes, or averages over draws where there are none, or the reverse, ``draws`` that do not fit the network,
            clean images whose logits are not finite, or a folder of another evaluation. Nothing is written then.
        DamagedFileError: a file in the folder is not as it was written.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    check_arrays(images, labels)
    check_images(images, "images", allow_uint8=True)
    draws = checks.whole_number("draws", draws, 0)
    check_call(logits_fn, images, draws)
    of_images = one_draw(logits_fn) if draws else logits_fn
    classes = count_classes(of_images, images.shape[1:])
    check_labels(labels, len(images), classes, "labels")
    examples = checks.whole_number("examples", examples, 0, len(images))
    batch_size, width = (None if number is None else checks.whole_number(name, number, 1)
                         for name, number in (("batch_size", batch_size), ("width", width)))
    seed, folder = checks.seed(seed), local_path(folder, "folder")
    threat = checked_threat(epsilon, step_size, norm, variant, images.shape[1:], loss)
    columns, suite = build_suite(attacks, threat, classes, draws > 0)
    surrogates: Any = surrogate if isinstance(surrogate, list | tuple) else [surrogate]
    crafted_on = None if surrogate is None or not surrogates else mean_logits(surrogates)
    if any(attack.on_surrogate for attack in suite.values()):
        if crafted_on is None:
            raise ValueError("transfer attacks need a surrogate, the network that they are crafted on; got none.")
        if (others := count_classes(crafted_on, images.shape[1:])) != classes:
            raise ValueError(f"the surrogate must have the network's {classes} classes; got one with {others}.")
    check_attacks(suite, images.shape[1:], classes, draws > 0)

    index = stratified_rows(labels, examples)
    network = Evaluator(as_argument(logits_fn), images, labels.astype(np.int32),
                        width or block_width(of_images, images.shape[1:]), draws,
                        fold_in_name(jax.random.key(seed), _VERDICT))
    logits = network.logits(index)
    check_finite(logits, index=index)
    settings = {"epsilon": threat.epsilon, "step_size": threat.step_size, "norm": norm, "variant": variant,
                "seed": seed, "width": network.width, "platform": jax.default_backend(),
                "data": fingerprint([images, labels])} | network_record(network)
    if draws:
        settings["draws"] = draws
    if loss is not None:
        settings |= loss_record(loss, classes)
    if crafted_on is not None:
        other = dataclasses.replace(network, logits_fn=crafted_on, draws=0)
        check_finite(other.logits(index), "surrogate", index)
        settings |= network_record(other, "surrogate")
    saved = SavedImages(folder / "adversarial", images.shape) if save_images else None
    run = _Evaluation(network, crafted_on, index, logits.argmax(-1).astype(np.int32), norm, jax.random.key(seed),
                      batch_size, Ledger(folder, settings), saved, progress or AttackProgress(shown=False))
    run.attack_all(columns, suite)
    minimal = {name for name, attack in suite.items() if attack.minimal}
    summary = summarise(run.ledger, columns, index, run.right, minimal) | {"settings": settings}
    write_atomically(folder / "summary.json", json.dumps(summary, indent=1))
    return summary


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    """The checked arguments of one call, which its attacks share."""
    network: Evaluator
    surrogate: Any
    index: Index
    predictions: Int[np.ndarray, " m"]
    norm: str
    key: Any
    batch_size: int | None
    ledger: Ledger
    saved: SavedImages | None
    progress: Any

    @property
    def right(self) -> Flags:
        """Which of the examples are classified correctly without an attack."""
        return self.predictions == self.network.labels[self.index]

    def attack_all(self, columns: Mapping[str, Sequence[str]], suite: Mapping[str, SuiteAttack]) -> None:
        """Completes the ledger for what :func:`build_suite` returned."""
        # Ensembles last: they reuse the rows of members that ran on their own.
        for names in sorted(columns.values(), key=len):
            alive = self.right
            for name in names:
                self._attack(suite[name], alive)
                rows = self.ledger.rows(name)
                alive = alive & np.array([one not in rows or not rows[one].broken for one in self.index])
        self.ledger.sort(suite)
        self.ledger.close()
        if self.saved:
            self.saved.finish()

    def _attack(self, attack: SuiteAttack, alive: Flags) -> None:
        known, clean = self.ledger.rows(attack.name), dict(zip(self.index, self.predictions, strict=True))
        labels = self.network.labels
        self.ledger.add([Row.misclassified(attack.name, one, labels[one], clean[one])
                         for one in self.index[~self.right] if one not in known])
        waiting = [one for one in self.index[alive] if one not in known]
        if not waiting:
            return
        save = self.saved.writer(attack.name) if self.saved else None
        self.progress.begin(attack.name, int(alive.sum()) - len(waiting), int(alive.sum()))

        def report(finished: list[Finished]) -> None:
            if save:
                save(finished)
            rows = [Row.attacked(attack.name, labels[one.index], clean[one.index], one) for one in finished]
            self.ledger.add(rows)
            self.progress.advance(len(rows), sum(row.broken for row in rows))

        pool = Pool(attack.attack, self.network, self.surrogate if attack.on_surrogate else self.network.logits_fn,
                    fold_in_name(self.key, attack.name), attack.radius, self.norm, attack.minimal)
        pool.run(waiting, report, self.batch_size)
        self.progress.end()
