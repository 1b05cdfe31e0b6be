"""Config to what a step needs: the static parts and the traced numbers."""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from morel_jax import builders, losses, models, sharding
from morel_jax.training import objective
from morel_jax.training.own import NO_OWN
from morel_jax.training.state import HParams
from morel_jax.training.step import Parts, describe, sgd

_CLASSIFICATION = {"standard": objective.standard, "pgd_at": objective.pgd_at, "trades": objective.trades,
                   "mart": objective.mart}


def _per_example(loss):
    """A loss of the caller's own, whose result's shape is looked at while it is traced."""
    def checked(views, labels, hparams):
        values = loss(views, labels, hparams)
        if getattr(values, "shape", None) != labels.shape or not jnp.issubdtype(values.dtype, jnp.floating):
            raise ValueError(f"loss must return a floating number for each example, float{list(labels.shape)}; got "
                             f"{describe(values)}.")
        return values

    return checked


def build_objective(config, loss=None):
    """(views, labels, hparams) -> (scalar, metrics) of ``config.method``, or of one's own classification loss."""
    name = builders.classification(config)
    if loss is not None:
        classification = _per_example(loss)
    elif name == "loat":
        classification = partial(objective.loat, kind=config.loss.loat_kind, base=config.loss.loat_base)
    else:
        classification = _CLASSIFICATION[name]
    if not builders.uses_embedding(config):
        return objective.plain(classification)
    return objective.morel(classification, config.morel.scalarization, config.morel.contrastive_rows,
                           config.morel.contrastive_reduction)


def build_parts(config, num_classes, own=NO_OWN):
    """What fixes the compiled step: :class:`~morel_jax.training.step.Parts`."""
    model = builders.model(config, num_classes) if own.model is None else own.model
    if hasattr(model, "batch_norm_momentum"):
        model = model.clone(batch_norm_momentum=0.0)
    embedding = None
    if builders.uses_embedding(config):
        embedding = models.EmbeddingSpace(config.embedding.embed_dim, config.embedding.num_heads)
    return Parts(
        model=model,
        embedding=embedding,
        objective=build_objective(config, own.loss),
        optimizer=sgd,
        forwards=builders.forwards(config),
        moves=tuple(config.batch_norm.moves),
        attack_batch_norm=config.attack.batch_norm,
        crop_padding=config.data.crop_padding,
        flip=config.data.flip,
        accumulate=config.accumulate,
        awp=config.loss.awp,
        combine=losses.GRADIENT_METHODS.get(config.morel.scalarization) if embedding is not None else None,
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
    """The numbers of an epoch: :class:`~morel_jax.training.state.HParams` of float32 leaves.

    Args:
        config: checked ConfigDict.
        epoch: counted from 1.
        steps_per_epoch: tells the step at which a plain average begins.
        own: :class:`~morel_jax.training.own.Own`.
    """
    return HParams(
        attack=builders.pgd(config.attack) if own.attack is None else own.attack,
        learning_rate=np.float32(builders.learning_rate(config, epoch)),
        momentum=np.float32(config.optimizer.momentum),
        weight_decay=np.float32(config.optimizer.weight_decay),
        beta=np.float32(config.loss.beta),
        label_smoothing=np.float32(config.loss.label_smoothing),
        awp_gamma=np.float32(config.loss.awp_gamma if epoch >= config.loss.awp_first_epoch else 0),
        loat_phase=np.int32(losses.loat_phase(epoch, config.loss.loat_last_epoch)),
        loat_theta=np.float32(config.loss.loat_theta),
        loat_gamma=np.float32(config.loss.loat_gamma),
        preference=np.asarray(config.morel.preference, np.float32),
        reference_point=np.asarray(config.morel.reference_point, np.float32),
        augmentation=np.float32(config.morel.augmentation),
        cosine_weight=np.float32(config.morel.cosine_weight),
        contrastive_weight=np.float32(config.morel.contrastive_weight),
        temperature=np.float32(config.morel.temperature),
        cutmix_alpha=np.float32(config.data.cutmix_alpha),
        batch_norm_momentum=np.float32(config.batch_norm.momentum),
        ema_decay=np.float32(config.ema_decay),
        swa_first_step=np.int32((config.swa_first_epoch - 1) * steps_per_epoch if config.swa_first_epoch else -1),
    )
