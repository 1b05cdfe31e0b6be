"""Nine preferences on eight fake devices, and each alone on one.

``python -m tests.training.nine_members OUTPUT WORKDIR`` writes {mode: {member: [largest difference between final
states, history, history of the run alone]}} as JSON.
"""
import json
import sys
from pathlib import Path
from unittest import mock

import jax
import numpy as np

from morel_jax import builders, training
from morel_jax.training.members import parse_sweeps
from tests.small import small_config, small_dataset

MODES = ("sequential", "vmapped")


def _largest_difference(one, other):
    return max(float(np.max(np.abs(np.asarray(a) - np.asarray(b)), initial=0.0))
               for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def main(output, workdir):
    """Trains all and writes the file."""
    jax.config.update("jax_num_cpu_devices", 8)
    workdir, found, alone = Path(workdir), {}, {}
    with mock.patch.object(builders, "dataset", return_value=small_dataset()):
        for mode in MODES:
            # A seed with which rounding turns no sign of the attack: from such a place on a run would be another.
            outcomes = training.fit_population(small_config(mesh__data=1, seed=1),
                                               parse_sweeps(["preference:0.1..0.9:9"]), workdir / mode, progress=False,
                                               mode=mode)
            found[mode] = {}
            for outcome in outcomes:
                name = outcome.member.name
                if name not in alone:
                    alone[name] = training.fit(outcome.member.config, workdir / "alone" / name, progress=False)
                state, history = alone[name]
                found[mode][name] = [_largest_difference(outcome.state, state), outcome.history, history]
    Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
