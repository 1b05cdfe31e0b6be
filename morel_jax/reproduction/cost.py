"""What is left to do will cost: FLOPs, and hours at the speed of a measured step."""
import dataclasses
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from morel_jax import builders
from morel_jax.reproduction.scales import PROTOCOLS
from morel_jax.targets.flops import count_flops
from morel_jax.training.placement import Sharded, build_layout
from morel_jax.training.setup import INITIAL, STEP, setup
from morel_jax.training.step import train_step

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


def left(plan, family):
    """:class:`Left` of a family; nothing is compiled or measured."""
    config = plan.grid.base(family)
    blank = setup(config, blank=True)
    untrained = [run for run in plan.runs(family) if not run.is_trained()]
    steps = sum((config.epochs - len(run.history())) * blank.steps_per_epoch for run in untrained)
    image = jax.ShapeDtypeStruct((1, *blank.image_shape), jnp.float32)
    variables = jax.eval_shape(blank.parts.model.init, jax.random.key(0), image)
    forward = count_flops(blank.parts.model.apply, variables, image)
    judged = 0.0
    for one in plan.judgements(family):
        if not one.is_done() and one.protocol in PROTOCOLS:
            images = plan.grid.scale.examples[one.protocol] or len(builders.blank_dataset(config).test.labels)
            judged += forward * images * _PASSES[one.protocol]
    return Left(family.name, len(untrained), steps, _step_flops(blank) * steps, judged)


def _step_flops(blank):
    return count_flops(partial(train_step, parts=blank.parts), *blank.step_arguments)


def measure_flops_per_second(config):
    """The speed at which steps of a config's run go, after compiling; takes the data set's shape, not its content."""
    blank, placement = setup(config, blank=True), Sharded(build_layout(config))
    (state,) = placement.new_states(blank, [config.seed], INITIAL)
    totals, key = placement.totals([blank.no_totals]), placement.keys([config.seed], STEP)
    few = dataclasses.replace(blank.train, images=np.ascontiguousarray(blank.train.images[:config.batch_size]),
                              labels=np.ascontiguousarray(blank.train.labels[:config.batch_size]))
    order = np.tile(np.arange(config.batch_size, dtype=np.int32), (1 + _MEASURED_STEPS, 1))
    piece, *_ = next(iter(placement.feed(few, config.data.placement).pieces(order, 0)))
    (train, _), hparams = placement.compile(blank.parts), blank.hparams(config, epoch=1)

    def run(state, totals, first, last):
        return train(state, totals, hparams, piece, key, np.int32(first), np.int32(last))

    state, totals = jax.block_until_ready(run(state, totals, 0, 1))
    began = time.monotonic()
    jax.block_until_ready(run(state, totals, 1, 1 + _MEASURED_STEPS))
    return _step_flops(blank) * _MEASURED_STEPS / (time.monotonic() - began)


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
