"""What is left to do will cost: FLOPs, and hours at the speed of a measured step."""
import dataclasses
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from morel_jax import builders
from morel_jax.data.extra import epoch_order
from morel_jax.reproduction.scales import PROTOCOLS
from morel_jax.training import loop
from morel_jax.training.assemble import build_hparams, build_layout, build_parts
from morel_jax.training.dry_run import step_arguments
from morel_jax.training.feed import build_feed
from morel_jax.training.flops import count_flops
from morel_jax.training.step import compile_train_epoch, train_step

# Forward passes an image of each protocol, a pass with gradient counting as three. Of the iterative attacks only the
# images that withstand them take all steps: this share of them is a guess.
_GRADIENT, _WITHSTAND = 3, 0.5
_PASSES = {
    "paper": _GRADIENT * (1 + 20 + 100 + 10),
    "transfer": _GRADIENT * (1 + 20 + 100 + 10),
    # APGD-CE, APGD-T and FAB-T with 9 targets, Square.
    "autoattack": _WITHSTAND * (_GRADIENT * (100 + 900 + 900) + 900 + 5000),
}
_MEASURED_STEPS = 3


@dataclasses.dataclass(frozen=True)
class Left:
    """What a family still needs.

    Attributes:
        family: its name.
        runs: that are not trained to their end.
        steps: of them all, together.
        train_flops, judge_flops: FLOPs of those steps, and of the judgements that are missing.
    """
    family: str
    runs: int
    steps: int
    train_flops: float
    judge_flops: float


def _datasets(config):
    blank = builders.blank_dataset(config)
    return blank, builders.splits(config, blank)[0]


def left(plan, family):
    """:class:`Left` of a family; nothing is compiled or measured."""
    config = plan.grid.base(family)
    dataset, train = _datasets(config)
    parts = build_parts(config, dataset.num_classes)
    steps_per_epoch = len(train.labels) // config.batch_size
    untrained = [run for run in plan.runs(family) if not run.is_trained()]
    steps = sum((config.epochs - len(run.history())) * steps_per_epoch for run in untrained)
    step = count_flops(partial(train_step, parts=parts), *step_arguments(config, parts, dataset.image_shape))
    image = jax.ShapeDtypeStruct((1, *dataset.image_shape), jnp.float32)
    variables = jax.eval_shape(parts.model.init, jax.random.key(0), image)
    forward = count_flops(parts.model.apply, variables, image)
    judged = 0.0
    for one in plan.judgements(family):
        if not one.is_done() and one.protocol in PROTOCOLS:
            images = plan.grid.scale.examples[one.protocol] or len(dataset.test.labels)
            judged += forward * images * _PASSES[one.protocol]
    return Left(family.name, len(untrained), steps, step * steps, judged)


def measure_flops_per_second(config):
    """The speed at which steps of a config's run go, after compiling; takes the data set's shape, not its content."""
    dataset, train = _datasets(config)
    parts, layout = build_parts(config, dataset.num_classes), build_layout(config)
    key = loop.placed_key(config.seed, loop.STEP, layout)
    shape = dataset.image_shape
    state = loop.compile_new_state(config, parts, shape, key, layout)(key)
    totals = loop.placed_totals(loop.totals_of_no_step(config, parts, shape, state), layout)
    few = dataclasses.replace(train, images=np.ascontiguousarray(train.images[:config.batch_size]),
                              labels=np.ascontiguousarray(train.labels[:config.batch_size]))
    order = np.repeat(epoch_order(key, 1, config.batch_size, config.batch_size), 1 + _MEASURED_STEPS, axis=0)
    piece = next(iter(build_feed(few, config.data.placement, layout).pieces(order, 0)))
    step, hparams = compile_train_epoch(parts, layout), build_hparams(config, 1)

    def run(state, totals, first, last):
        return step(state, totals, hparams, piece.images, piece.labels, piece.rows, piece.index, key,
                    np.int32(first), np.int32(last))

    state, totals = jax.block_until_ready(run(state, totals, 0, 1))
    began = time.monotonic()
    jax.block_until_ready(run(state, totals, 1, 1 + _MEASURED_STEPS))
    elapsed = time.monotonic() - began
    flops = count_flops(partial(train_step, parts=parts), *step_arguments(config, parts, shape))
    return flops * _MEASURED_STEPS / elapsed


def to_text(rows, flops_per_second=None):
    """A table for people.

    Args:
        rows: list of :class:`Left`.
        flops_per_second: {family: speed of its steps}; None: no hours.
    """
    lines = [f"{'family':<48}{'runs':>6}{'steps':>10}{'training':>12}{'judging':>12}{'hours':>9}"]
    total = 0.0
    for row in rows:
        hours = ""
        if flops_per_second:
            took = (row.train_flops + row.judge_flops) / flops_per_second[row.family] / 3600
            total += took
            hours = f"{took:.2f}"
        lines.append(f"{row.family:<48}{row.runs:>6}{row.steps:>10,}{row.train_flops:>12.3g}{row.judge_flops:>12.3g}"
                     f"{hours:>9}")
    lines.append("FLOPs; hours at the speed of a training step measured here. What judging takes is a guess, as it "
                 "depends on how many images withstand.")
    if flops_per_second:
        lines.append(f"in all {total:.2f} hours")
    return "\n".join(lines)
