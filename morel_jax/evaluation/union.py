"""One network under several threat models: the worst case of each example over all of them."""
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from tabulate import tabulate

from morel_jax.attack_names import TRANSFER
from morel_jax.attacks.types import LogitsFn
from morel_jax.data.subset import stratified_rows
from morel_jax.evaluation.ledger import Ledger
from morel_jax.evaluation.protocol import evaluate
from morel_jax.evaluation.suite import Threat, build_suite
from morel_jax.evaluation.summary import cells, share
from morel_jax.files import local_path, write_atomically


def evaluate_union(logits_fn: LogitsFn, images: UInt8[np.ndarray, "n h w c"] | Float[np.ndarray, "n h w c"],
                   labels: Int[np.ndarray, " n"], attacks: Sequence[str | tuple[str, Callable]],
                   folder: str | os.PathLike, *, epsilons: Mapping[str, float],
                   step_sizes: Mapping[str, float] | None = None, examples: int = 0, **options: Any) -> dict[str, Any]:
    """Evaluates a network in several balls and counts an example as robust where no attack in any of them breaks it.

    Each norm has an evaluation of its own, in ``folder/<norm>``; ``folder/union.json`` has what this returns. The same
    call resumes a killed one.

    Args:
        attacks: of each of the norms; see :func:`~morel_jax.evaluation.evaluate`, also for the other arguments.
        epsilons: {norm: radius}, such as ``{"linf": 8 / 255, "l2": 0.5}``.
        step_sizes: {norm: of PGD}; None: a tenth of the radius.

    Returns:
        dict: ``examples``; ``clean``; ``norms``, by norm the worst case over its attacks and its ``epsilon``;
        ``union``, the worst case over all. Each has ``accuracy`` in [0, 1], ``correct`` and the 95 % ``interval``.

    Raises:
        ValueError: no norm, attacks on a surrogate alone, or as :func:`~morel_jax.evaluation.evaluate`.
    """
    if not epsilons:
        raise ValueError("epsilons must have the radius of at least one norm; got none.")
    folder = local_path(folder, "folder")
    alive: dict[str, np.ndarray] = {}
    result: dict[str, Any] = {"norms": {}}
    for norm, epsilon in epsilons.items():
        step_size = step_sizes[norm] if step_sizes else None
        columns, _ = build_suite(attacks, Threat(epsilon, epsilon, norm, loss=options.get("loss")))
        names = [name for column, names in columns.items() if not column.startswith(TRANSFER) for name in names]
        if not names:
            raise ValueError("attacks must name one that is crafted on the network itself, for a union; got "
                             f"{', '.join(columns)}.")
        summary = evaluate(logits_fn, images, labels, attacks, folder / norm, epsilon=epsilon, step_size=step_size,
                           norm=norm, examples=examples, **options)
        ledger = Ledger(folder / norm, summary["settings"])
        ledger.close()
        broken = {index for name in names for index, row in ledger.rows(name).items() if row.broken}
        alive[norm] = np.array([index not in broken for index in stratified_rows(labels, examples)])
        result |= {"examples": summary["examples"], "clean": summary["clean"]}
        result["norms"][norm] = share(alive[norm]) | {"epsilon": epsilon}
    result["union"] = share(np.all(list(alive.values()), axis=0))
    write_atomically(folder / "union.json", json.dumps(result, indent=1))
    return result


def union_to_markdown(result: Mapping[str, Any], title: str) -> str:
    """The table of what :func:`evaluate_union` returned, as Markdown."""
    rows = [cells("none (clean)", result["clean"])]
    rows += [cells(f"worst case in {norm}, epsilon {entry['epsilon']:.5g}", entry)
             for norm, entry in result["norms"].items()]
    rows.append(cells(f"worst case over {' and '.join(result['norms'])}", result["union"]))
    table = tabulate([row[:3] for row in rows], ("threat model", "accuracy, %", "95 % interval"), tablefmt="github",
                     disable_numparse=True)
    return f"## {title}\n\n{result['examples']} images. Accuracy with its 95 % confidence interval.\n\n{table}\n"
