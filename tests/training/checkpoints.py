"""Checkpoints of a small state whose numbers all depend on its step."""
import chex
import jax
import jax.numpy as jnp
import numpy as np

from morel_jax.training.checkpoint import Checkpoints
from morel_jax.training.state import TrainState


def state(step):
    """A state whose numbers all depend on ``step``."""
    weights = np.random.default_rng(step).normal(size=(64, 64)).astype(np.float32)
    params = {"classifier": {"kernel": jnp.asarray(weights)}, "embedding": {"kernel": jnp.asarray(weights[0])}}
    return TrainState(step=jnp.int32(step), params=params, batch_stats={"mean": jnp.asarray(weights[1])},
                      opt_state=jax.tree.map(lambda leaf: 2 * leaf, params))


def totals(step):
    return {"count": jnp.int32(step)}


def record(step):
    return {"history": [{"step": step - 1}], "best": -1.0, "seconds": 0.5}


def save(checkpoints, step, which="last", announce=None):
    checkpoints.save(which, step, state(step), totals(step), record(step), announce)


def abstract(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def restored(workdir):
    """The step that is restored, once everything else has been seen to belong to it."""
    with Checkpoints(workdir) as checkpoints:
        found = checkpoints.restore(abstract(state(0)), abstract(totals(0)))
    if found is None:
        return None
    step = int(found[0].step)
    chex.assert_trees_all_equal(found, (state(step), totals(step), record(step)))
    return step
