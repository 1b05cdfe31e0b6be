"""Collectives of programs on eight fake devices: ``python -m tests.targets.sharded_collectives OUTPUT``, JSON."""
import dataclasses
import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from morel_jax import data, sharding
from morel_jax.models import resnet
from morel_jax.targets.collectives import collectives
from morel_jax.targets.dry_run import dry_run, lower_step
from morel_jax.training.custom import CustomParts
from morel_jax.training.placement import build_layout
from morel_jax.training.setup import setup
from tests.small import small_config

CLASSES = 10
WIDTHS = (4, 6, 8)
# Method, image size, batch, steps of the attack, parts of the batch.
STEPS = {
    "usual": ("morel_mart", 8, 16, 2, 1),
    "large images": ("morel_mart", 16, 16, 2, 1),
    "large batch": ("morel_mart", 8, 32, 2, 1),
    "long attack": ("morel_mart", 8, 16, 5, 1),
    "without embedding": ("trades", 8, 16, 2, 1),
    "in parts": ("trades", 8, 16, 2, 2),
}


def exchanges(mesh):
    """The text of a program whose collectives are known."""
    @partial(jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    def program(x):  # float32[2, 8] on each of 4 x 2 devices.
        x = jax.lax.fori_loop(0, 5, lambda i, x: x + jnp.sin(jax.lax.pmean(x, "data")), x)
        x = x + jax.lax.all_gather(x, "data").sum(0)
        x = x + jax.lax.psum_scatter(jnp.tile(x, (4, 1)), "data", tiled=True)
        x = x + jax.lax.ppermute(x, "data", [(0, 1), (1, 2), (2, 3), (3, 0)])
        return jax.lax.all_to_all(x, "data", 1, 1, tiled=True)

    x = jax.ShapeDtypeStruct((8, 8), np.float32, sharding=jax.NamedSharding(mesh, P("data")))
    return jax.jit(program).lower(x).compile().as_text()


def step(method, size, batch, attack_steps, accumulate):
    """The compiled step's collectives, and what the network has of parameters and of channels with BatchNorm."""
    config = small_config(method, model__name="resnet8", batch_size=batch, attack__num_steps=attack_steps,
                          accumulate=accumulate)
    split = data.Split(np.zeros((64, size, size, 3), np.uint8), np.zeros(64, np.int32))
    dataset = data.Dataset("zeros", split, split, CLASSES, tuple(map(str, range(CLASSES))))
    made = setup(config, CustomParts(dataset))
    model = resnet.resnet8(num_classes=CLASSES, widths=WIDTHS, batch_norm_momentum=0.0)
    made = dataclasses.replace(made, parts=dataclasses.replace(made.parts, model=model))
    program = lower_step(made, build_layout(config)).compile()
    state = made.step_arguments[0]
    parameters, statistics = (sum(leaf.size for leaf in jax.tree.leaves(tree))
                              for tree in (state.params["classifier"], state.batch_stats))
    return {"collectives": as_dicts(program.as_text()), "parameters": parameters, "channels": statistics // 2}


def as_dicts(text):
    """The collectives of a program's text."""
    return [dataclasses.asdict(one) for one in collectives(text)]


def main(output):
    """Writes what the tests look at."""
    jax.config.update("jax_num_cpu_devices", 8)
    found = {"exchanges": as_dicts(exchanges(sharding.make_mesh(4, 2)))}
    found["steps"] = {name: step(*case) for name, case in STEPS.items()}
    try:
        build_layout(small_config("trades", accumulate=4))
    except ValueError as error:
        found["error"] = str(error)
    found["dry_run"] = dry_run(small_config()).to_text()
    with open(output, "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(sys.argv[1])
