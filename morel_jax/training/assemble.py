"""Config to what a step needs: the static parts and the traced numbers."""
import functools

import jax
import numpy as np

from morel_jax import builders, models, optimizer, sharding
from morel_jax.configuration import FIELDS
from morel_jax.methods import METHODS
from morel_jax.training.own import NO_OWN
from morel_jax.training.state import HParams
from morel_jax.training.step import Parts


def build_parts(config, num_classes, own=NO_OWN):
    """What fixes the compiled step: :class:`~morel_jax.training.step.Parts`."""
    method = METHODS[config.method]
    model = builders.model(config, num_classes) if own.model is None else own.model
    if hasattr(model, "batch_norm_momentum"):
        model = model.clone(batch_norm_momentum=0.0)
    embedding = None
    if method.has_embedding:
        embedding = models.EmbeddingSpace(config.embedding.embed_dim, config.embedding.num_heads)
    return Parts(
        model=model,
        embedding=embedding,
        objective=method.objective(config, own.loss),
        optimizer=optimizer.sgd,
        passes=method.passes,
        statistics_from=tuple(config.batch_norm.statistics_from),
        attack_batch_norm=config.attack.batch_norm,
        crop_padding=config.data.crop_padding,
        flip=config.data.flip,
        accumulate=config.accumulate,
        awp=config.loss.awp,
        combine=method.combine(config),
        cutmix=config.data.cutmix,
    )


def check_compiled():
    """Raises ValueError where JAX is told not to compile: a run is compiled ahead, for its shapes."""
    if jax.config.jax_disable_jit:
        raise ValueError("JAX_DISABLE_JIT (jax_disable_jit) must be off for a run, which is compiled as a whole; to "
                         "look into a step, call morel_jax.training.step.train_step with it on.")


def build_layout(config):
    """The run's devices and what lies where on them: :class:`~morel_jax.sharding.Layout`.

    Raises:
        ValueError: the devices are not there, or do not divide what they are to work on together.
    """
    check_compiled()
    layout = sharding.Layout(sharding.make_mesh(config.mesh.data, config.mesh.fsdp), config.mesh.fsdp_min_size)
    field = "config.batch_size" if config.accumulate == 1 else "config.batch_size / config.accumulate"
    layout.check_batch(config.batch_size // config.accumulate, field)
    return layout


def build_hparams(config, epoch, steps_per_epoch=0, own=NO_OWN):
    """The numbers of an epoch: :class:`~morel_jax.training.state.HParams`.

    Args:
        config: checked ConfigDict.
        epoch: counted from 1.
        steps_per_epoch: for what depends on it: a plain average's first step, rates that change step by step.
        own: :class:`~morel_jax.training.own.Own`.
    """
    numbers = {field.traced: np.asarray(functools.reduce(getattr, name.split("."), config), np.float32)
               for name, field in FIELDS.items() if field.traced}
    numbers |= optimizer.schedule(config, epoch, steps_per_epoch)
    numbers |= METHODS[config.method].schedule(config, epoch)
    return HParams(builders.pgd(config.attack) if own.attack is None else own.attack, **numbers)
