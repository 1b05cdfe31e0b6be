"""Config to all that a run needs: its data, the static parts of its step, and the traced numbers."""
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array, Int32, Key
from ml_collections import ConfigDict, FrozenConfigDict

from morel_jax import builders, models, optimizer
from morel_jax.configuration import FIELDS
from morel_jax.data import Split
from morel_jax.data.shuffle import epoch_order
from morel_jax.methods import METHODS
from morel_jax.models.precision import PRECISIONS
from morel_jax.sharding import Layout
from morel_jax.training.custom import NO_CUSTOM, CustomParts, check_model
from morel_jax.training.epoch import Totals, empty_totals
from morel_jax.training.members import shared_config
from morel_jax.training.state import HParams, TrainState, create_state
from morel_jax.training.step import Batch, Parts, keep_last

# Purposes of randomness, folded into the seed's key.
INITIAL, ORDER, STEP, VALIDATION = range(4)


def purpose_key(seed: int, purpose: int) -> Key[Array, ""]:
    """The key of one purpose: ``INITIAL``, ``ORDER``, ``STEP`` or ``VALIDATION``."""
    return jax.random.fold_in(jax.random.key(seed), purpose)


@dataclasses.dataclass(frozen=True)
class _Always:
    """The caller's own optimiser, whose numbers are fixed."""
    optimizer: optax.GradientTransformation

    def __call__(self, hparams: HParams) -> optax.GradientTransformation:
        return self.optimizer


def build_parts(config: ConfigDict, num_classes: int, custom: CustomParts = NO_CUSTOM) -> Parts:
    """What fixes the compiled step."""
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
        elementwise=custom.optimizer is None,
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
        famo_objectives=method.famo_objectives(config),
        cutmix=config.data.cutmix,
    )


@keep_last
def _kept_parts(shared: FrozenConfigDict, num_classes: int) -> Parts:
    return build_parts(shared, num_classes)


def build_hparams(config: ConfigDict, epoch: int, steps_per_epoch: int = 0, custom: CustomParts = NO_CUSTOM) -> HParams:
    """The numbers of an epoch.

    Args:
        config: checked.
        epoch: counted from 1.
        steps_per_epoch: for what depends on it: a plain average's first step, rates that change step by step.
        custom: the caller's own parts.
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
        config: checked; of a sweep its first member's.
        custom: the caller's own parts.
        data: the data set's :meth:`~morel_jax.data.Dataset.record`.
        train: to train on; the images of ``config.data.extra`` stand behind the data set's own.
        own_images: how many of those are the data set's own.
        validation: to validate on.
        parts: of the step.
    """
    config: ConfigDict
    custom: CustomParts
    data: dict[str, Any]
    train: Split
    own_images: int
    validation: Split
    parts: Parts

    @property
    def validation_attack(self) -> Any:
        """The attack of validations."""
        own = self.custom.validation_attack
        return builders.pgd(self.config.validation) if own is None else own

    @property
    def num_classes(self) -> int:
        """Classes of the data set."""
        return self.data["num_classes"]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of one image."""
        return self.train.images.shape[1:]

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch; its last, incomplete batch is dropped."""
        return self.own_images // self.config.batch_size

    def hparams(self, config: ConfigDict, epoch: int) -> HParams:
        """:func:`build_hparams` of a run with ``config``."""
        return build_hparams(config, epoch, self.steps_per_epoch, self.custom)

    def order(self, seed: int, epoch: int) -> Int32[np.ndarray, "steps batch_size"]:
        """The examples of an epoch's steps: :func:`~morel_jax.data.shuffle.epoch_order`."""
        return epoch_order(purpose_key(seed, ORDER), epoch, self.own_images, self.config.batch_size,
                           len(self.train.labels) - self.own_images, self.config.data.extra_share)

    @functools.cached_property
    def step_arguments(self) -> tuple[TrainState, HParams, Batch, Any]:
        """Shapes of what ``train_step`` takes, a key the last; HParams as values."""
        key = jax.eval_shape(lambda: jax.random.key(0))
        hparams = self.hparams(self.config, epoch=1)
        state = jax.eval_shape(self._new_state(), key)
        labels: Any = jax.ShapeDtypeStruct((self.config.batch_size,), np.int32)
        images: Any = jax.ShapeDtypeStruct((self.config.batch_size, *self.image_shape), np.uint8)
        return state, hparams, Batch(images, labels, labels), key

    def no_totals(self, layout: Layout | None = None) -> Totals:
        """Totals of no step, as NumPy arrays: what an epoch begins with.

        Args:
            layout: of the run, whose step is then traced once for this and for its loop.
        """
        state, hparams, *rest = self.step_arguments
        if layout is not None:  # To JAX the devices are part of a shape.
            state, *rest = layout.abstract((state, *rest), layout.replicated)
        return empty_totals(state, hparams, *rest, parts=self.parts, layout=layout)

    def _new_state(self) -> jax.stages.Wrapped:
        return _new_state(shared_config(self.config), optimizer.keeps_average(self.config), self.parts,
                          self.image_shape)

    def compile_new_state(self, key: Key[Array, ""], layout: Layout | None = None) -> Callable[[Array], TrainState]:
        """The function of a key that gives a new run's state, compiled.

        Args:
            key: one like those it will be called with.
            layout: of the run, where the state will lie; None: where the key is.
        """
        like = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=key.sharding)
        return _compiled_new_state(self._new_state(), like, layout)


@keep_last
def _new_state(shared: FrozenConfigDict, average: bool, parts: Parts,
               image_shape: tuple[int, int, int]) -> jax.stages.Wrapped:
    """The function key -> TrainState, jitted and so traced once for its shapes and to be compiled."""
    hparams = build_hparams(shared, epoch=1)
    return jax.jit(lambda key: create_state(parts, key, image_shape, hparams, average))


@keep_last
def _compiled_new_state(create: jax.stages.Wrapped, key: jax.ShapeDtypeStruct,
                        layout: Layout | None) -> Callable[[Array], TrainState]:
    create = jax.jit(create, out_shardings=layout.state(jax.eval_shape(create, key)) if layout else None)
    # Run once: what optimising would save is far less than the seconds that it takes.
    options: dict[str, Any] = {"xla_backend_optimization_level": 0}
    return create.lower(key).compile(compiler_options=options)


def setup(config: ConfigDict, custom: CustomParts = NO_CUSTOM, blank: bool = False) -> Setup:
    """:class:`Setup` of a run, or of the members of a sweep.

    Args:
        config: checked.
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
