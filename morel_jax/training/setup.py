"""Config to all that a run needs: its data, the static parts of its step, and the traced numbers."""
import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from morel_jax import builders, models, optimizer
from morel_jax.configuration import FIELDS
from morel_jax.data import Split
from morel_jax.data.shuffle import epoch_order
from morel_jax.methods import METHODS
from morel_jax.models.precision import PRECISIONS
from morel_jax.training.custom import NO_CUSTOM, CustomParts, check_model
from morel_jax.training.epoch import empty_totals
from morel_jax.training.members import shared_config
from morel_jax.training.state import HParams, create_state
from morel_jax.training.step import Batch, Parts, keep_last

# Purposes of randomness, folded into the seed's key.
INITIAL, ORDER, STEP, VALIDATION = range(4)


def purpose_key(seed, purpose):
    """The key of one purpose: ``INITIAL``, ``ORDER``, ``STEP`` or ``VALIDATION``."""
    return jax.random.fold_in(jax.random.key(seed), purpose)


@dataclasses.dataclass(frozen=True)
class _Always:
    """The caller's own optimiser, whose numbers are fixed."""
    optimizer: Any

    def __call__(self, hparams):
        return self.optimizer


def build_parts(config, num_classes, custom=NO_CUSTOM):
    """What fixes the compiled step: :class:`~morel_jax.training.step.Parts`."""
    method = METHODS[config.method]
    model = builders.model(config, num_classes) if custom.model is None else custom.model
    if hasattr(model, "batch_norm_momentum"):
        model = model.clone(batch_norm_momentum=0.0)
    embedding = None
    if method.has_embedding:
        embedding = models.EmbeddingSpace(config.embedding.embed_dim, config.embedding.num_heads,
                                          config.embedding.dropout)
    return Parts(
        model=model,
        embedding=embedding,
        objective=method.objective(config, custom.loss),
        optimizer=optimizer.sgd(config) if custom.optimizer is None else _Always(custom.optimizer),
        cuda_graph=config.cuda_graph,
        products=PRECISIONS[config.model.precision].products,
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


@keep_last
def _kept_parts(shared, num_classes):
    return build_parts(shared, num_classes)


def build_hparams(config, epoch, steps_per_epoch=0, custom=NO_CUSTOM):
    """The numbers of an epoch: :class:`~morel_jax.training.state.HParams`.

    Args:
        config: checked ConfigDict.
        epoch: counted from 1.
        steps_per_epoch: for what depends on it: a plain average's first step, rates that change step by step.
        custom: :class:`~morel_jax.training.custom.CustomParts`.
    """
    numbers: dict[str, Any] = {field.traced: np.asarray(functools.reduce(getattr, name.split("."), config), np.float32)
               for name, field in FIELDS.items() if field.traced}
    numbers |= optimizer.schedule(config, epoch, steps_per_epoch)
    numbers |= METHODS[config.method].schedule(config, epoch)
    return HParams(builders.pgd(config.attack) if custom.attack is None else custom.attack, **numbers)


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """A run before any device is chosen, or the runs of a sweep, which share all of this.

    Attributes:
        config: checked ConfigDict, of a sweep its first member's.
        custom: :class:`~morel_jax.training.custom.CustomParts`.
        data: the data set's :meth:`~morel_jax.data.Dataset.record`.
        train: Split to train on; the images of ``config.data.extra`` stand behind the data set's own.
        own_images: how many of those are the data set's own.
        validation: Split.
        parts: Parts.
    """
    config: Any
    custom: CustomParts
    data: dict
    train: Split
    own_images: int
    validation: Split
    parts: Parts

    @property
    def validation_attack(self):
        """The attack of validations."""
        own = self.custom.validation_attack
        return builders.pgd(self.config.validation) if own is None else own

    @property
    def num_classes(self):
        """Classes of the data set."""
        return self.data["num_classes"]

    @property
    def image_shape(self):
        """(h, w, c) of one image."""
        return self.train.images.shape[1:]

    @property
    def steps_per_epoch(self):
        """Steps of an epoch; its last, incomplete batch is dropped."""
        return self.own_images // self.config.batch_size

    def hparams(self, config, epoch):
        """:func:`build_hparams` of a run with ``config``."""
        return build_hparams(config, epoch, self.steps_per_epoch, self.custom)

    def order(self, seed, epoch):
        """The examples of an epoch's steps, int32[steps, batch_size]: :func:`~morel_jax.data.shuffle.epoch_order`."""
        return epoch_order(purpose_key(seed, ORDER), epoch, self.own_images, self.config.batch_size,
                           len(self.train.labels) - self.own_images, self.config.data.extra_share)

    @functools.cached_property
    def step_arguments(self):
        """Shapes of what ``train_step`` takes: (TrainState, HParams, Batch, key); HParams as values."""
        key = jax.eval_shape(lambda: jax.random.key(0))
        hparams = self.hparams(self.config, epoch=1)
        state = jax.eval_shape(self._new_state(), key)
        labels: Any = jax.ShapeDtypeStruct((self.config.batch_size,), np.int32)
        images: Any = jax.ShapeDtypeStruct((self.config.batch_size, *self.image_shape), np.uint8)
        return state, hparams, Batch(images, labels, labels), key

    def no_totals(self, layout=None):
        """Totals of no step, as NumPy arrays: what an epoch begins with.

        Args:
            layout: of the run, whose step is then traced once for this and for its loop.
        """
        state, hparams, *rest = self.step_arguments
        if layout is not None:  # To JAX the devices are part of a shape.
            state, *rest = layout.abstract((state, *rest), layout.replicated)
        return empty_totals(state, hparams, *rest, parts=self.parts, layout=layout)

    def _new_state(self):
        return _new_state(shared_config(self.config), optimizer.keeps_average(self.config), self.parts,
                          self.image_shape)

    def compile_new_state(self, key, layout=None):
        """The function key -> TrainState of a new run, compiled.

        Args:
            key: one like those it will be called with.
            layout: of the run, where the state will lie; None: where the key is.
        """
        like = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=key.sharding)
        return _compiled_new_state(self._new_state(), like, layout)


@keep_last
def _new_state(shared, average, parts, image_shape):
    """The function key -> TrainState, jitted and so traced once for its shapes and to be compiled."""
    hparams = build_hparams(shared, epoch=1)
    return jax.jit(lambda key: create_state(parts, key, image_shape, hparams, average))


@keep_last
def _compiled_new_state(create, key, layout):
    create = jax.jit(create, out_shardings=layout.state(jax.eval_shape(create, key)) if layout else None)
    # Run once: what optimising would save is far less than the seconds that it takes.
    options: dict[str, Any] = {"xla_backend_optimization_level": 0}
    return create.lower(key).compile(compiler_options=options)


def setup(config, custom=NO_CUSTOM, blank=False):
    """:class:`Setup` of a run, or of the members of a sweep.

    Args:
        config: checked ConfigDict.
        custom: the caller's own parts.
        blank: take the data set's shapes and not its content, so that nothing is downloaded or decoded. Of
            ``config.data.extra`` the file is read, as only that tells how many images it adds.

    Raises:
        ValueError: numbers of the config that do not fit the images, or a custom model that cannot be trained.
        OSError: the data set is not there.
    """
    if custom.dataset is not None:
        dataset = custom.dataset
    else:
        dataset = builders.blank_dataset(config) if blank else builders.dataset(config)
    own, validation = builders.splits(config, dataset)
    if custom.model is not None:
        check_model(custom.model, dataset.image_shape, dataset.num_classes)
    if custom.model is None and custom.loss is None and custom.optimizer is None:
        parts = _kept_parts(shared_config(config), dataset.num_classes)
    else:
        parts = build_parts(config, dataset.num_classes, custom)
    return Setup(config, custom, dataset.record(),
                 builders.with_extra(config, own, dataset.num_classes), len(own.labels), validation, parts)
