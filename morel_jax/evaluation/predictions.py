"""What a network says of images, without an attack."""
import jax
import numpy as np
from jaxtyping import Array, Int32

from morel_jax.attacks.types import Images, LogitsFn
from morel_jax.evaluation.evaluator import Evaluator, Index
from morel_jax.progress import AttackProgress
from morel_jax.training.validation import predicted


@jax.jit
def _predicted(logits_fn: LogitsFn, x: Images) -> Int32[Array, " n"]:
    return predicted(logits_fn(x))


def predict(network: Evaluator, index: Index, name: str, progress: AttackProgress) -> Int32[np.ndarray, " m"]:
    """The classes of the images ``index``; -1 where a logit is NaN or infinite. ``name`` is what the progress shows."""
    done = 0
    progress.begin(name, 0, len(index), breaks=False)

    def advance(now: int) -> None:
        nonlocal done
        progress.advance(now - done)
        done = now

    found = network.map(lambda rows: _predicted(network.logits_fn, network.x(rows)), index, advance)
    progress.end()
    return found
