"""The training step under ``jax.shard_map`` and ``jax.pmap``, its collectives written out.

    python docs/examples/manual_collectives.py

morel_jax itself leaves the collectives to GSPMD: its step is written for the whole batch, and the batch is cut by a
sharding. Under ``shard_map`` and ``pmap`` a step sees one device's rows only. What then has to be said is what the
losses take from the whole batch:

- class attention and the contrastive loss need every row's features and label: all-gathers;
- the classification loss is a mean over rows, and its logits are gathered here too, so that one objective serves;
- BatchNorm's mean and variance are those of all rows: all-reduces, two a layer;
- the gradients are summed: all-reduces as large as the parameters.

The attack needs nothing: it sees running statistics, and an image's gradient concerns no other image.
"""
import dataclasses

import jax
import numpy as np
import optax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from morel_jax import data
from morel_jax.configuration import recipe
from morel_jax.training.setup import build_hparams, build_parts
from morel_jax.training.state import create_state
from morel_jax.training.step import Batch, train_step

AXIS = "data"


def gather(rows):
    """The rows of all devices, on each of them."""
    return jax.lax.all_gather(rows, AXIS, tiled=True)


@dataclasses.dataclass(frozen=True)
class GatheredEmbedding:
    """An embedding space that sees the whole batch."""
    embedding: object
    dropout = 0.0

    def apply(self, variables, features, labels, key=None):
        """This device's features and labels -> the embeddings of all rows."""
        del key  # Of a dropout that there is not.
        return self.embedding.apply(variables, gather(features), gather(labels))


def with_collectives(parts):
    """The parts of a step that sees only its device's share of the batch."""
    def objective(views, labels, hparams):
        views = dataclasses.replace(views, logits=gather(views.logits), logits_adv=gather(views.logits_adv))
        loss, metrics = parts.objective(views, gather(labels), hparams)
        # What is differentiated is the sum over devices, each of which computes this same loss.
        return loss / jax.lax.axis_size(AXIS), metrics

    def optimizer(hparams):
        inner = parts.optimizer(hparams)
        return optax.GradientTransformation(
            inner.init, lambda grads, state, params: inner.update(jax.lax.psum(grads, AXIS), state, params))

    return dataclasses.replace(parts, model=parts.model.clone(batch_norm_axis_name=AXIS), objective=objective,
                               embedding=GatheredEmbedding(parts.embedding), optimizer=optimizer)


def manual_step(parts):
    """(state, hparams, this device's Batch, key) -> (state, metrics)."""
    manual = with_collectives(parts)

    def step(state, hparams, batch, key):
        state, metrics = train_step(state, hparams, batch, key, parts=manual)
        del metrics["gradient_norm"]  # Taken before the sum: of this device's share alone.
        return state, jax.lax.pmean(metrics, AXIS)

    return step


def by_shard_map(parts, devices):
    """The step over ``devices``: (state, hparams, Batch, key) -> (state, metrics)."""
    mesh = jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)
    return jax.jit(jax.shard_map(manual_step(parts), mesh=mesh, in_specs=(P(), P(), P(AXIS), P()), out_specs=P(),
                                 check_vma=False))


def by_pmap(parts, devices):
    """The same; ``jax.pmap`` is in maintenance, and new code is better off with ``shard_map``."""
    step = jax.pmap(manual_step(parts), AXIS, in_axes=(None, None, 0, None), out_axes=None, devices=devices)

    def on_rows(state, hparams, batch, key):
        cut = jax.tree.map(lambda rows: rows.reshape(len(devices), -1, *rows.shape[1:]), batch)
        return step(state, hparams, cut, key)

    return on_rows


def main():
    """Three MOREL steps by one device, by shard_map and by pmap; prints how far the parameters are apart."""
    jax.config.update("jax_num_cpu_devices", 4)
    config = recipe("convnet_small,morel_mart,paper")
    config.attack.num_steps = 2
    parts = build_parts(config, num_classes=10)
    hparams = build_hparams(config, epoch=1)
    train = data.load("fashion_mnist_small").train
    key, n = jax.random.key(1), 16
    first = create_state(parts, jax.random.key(0), train.images.shape[1:], hparams, average=False)

    def parameters_after(step):
        state = first
        for number in range(3):
            rows = np.arange(n * number, n * (number + 1), dtype=np.int32)
            state, metrics = step(state, hparams, Batch(train.images[rows], train.labels[rows], rows), key)
        print(f"  loss {float(metrics['loss']):.6f}")
        return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(state.params)])

    def whole(state, hparams, batch, key):
        return train_step(state, hparams, batch, key, parts=parts)

    print("one device")
    expected = parameters_after(jax.jit(whole))
    before = np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(first.params)])
    moved = np.abs(expected - before).max()
    for name, compiled in (("shard_map", by_shard_map), ("pmap", by_pmap)):
        print(f"{name}, {len(jax.devices())} devices")
        apart = np.abs(parameters_after(compiled(parts, jax.devices())) - expected).max()
        print(f"  parameters differ by {apart / moved:.1e} of the largest move")


if __name__ == "__main__":
    main()
