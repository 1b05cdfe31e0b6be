"""What a run carries from step to step, and the numbers that it may sweep."""
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class HParams:
    """Numbers that a sweep may change without compiling anew; every field is a traced leaf.

    Attributes:
        attack: the training attack, a pytree whose epsilon and step size are leaves.
        learning_rate: of this epoch.
        momentum, weight_decay: of SGD.
        beta: 1/lambda, weight of the robust term of TRADES and MART.
        label_smoothing: of plain cross-entropy.
        awp_gamma: size of the adversarial weight perturbation as a share of a layer's norm.
        loat_phase: int, which of LOAT's phases this epoch is in.
        loat_theta, loat_gamma: weights of LOAT's two regularisers.
        preference, reference_point: float[2], CS's k and a; entry 0 belongs to the representation loss.
        augmentation: CS's gamma.
        cosine_weight: of the cosine loss in MOREL's first objective; 1 in the paper.
        contrastive_weight: MOREL's alpha.
        temperature: tau of the contrastive loss.
        cutmix_alpha: of CutMix's Beta distribution.
        batch_norm_momentum: share of the running statistics that one move keeps.
        ema_decay: share of the averaged weights that one step keeps; not read once ``swa_first_step`` is 0 or more.
        swa_first_step: int, the first step after which weights are in the plain mean; -1: there is none.
    """
    attack: Any
    learning_rate: jax.typing.ArrayLike
    momentum: jax.typing.ArrayLike
    weight_decay: jax.typing.ArrayLike
    beta: jax.typing.ArrayLike
    label_smoothing: jax.typing.ArrayLike
    awp_gamma: jax.typing.ArrayLike
    loat_phase: jax.typing.ArrayLike
    loat_theta: jax.typing.ArrayLike
    loat_gamma: jax.typing.ArrayLike
    preference: jax.typing.ArrayLike
    reference_point: jax.typing.ArrayLike
    augmentation: jax.typing.ArrayLike
    cosine_weight: jax.typing.ArrayLike
    contrastive_weight: jax.typing.ArrayLike
    temperature: jax.typing.ArrayLike
    cutmix_alpha: jax.typing.ArrayLike
    batch_norm_momentum: jax.typing.ArrayLike
    ema_decay: jax.typing.ArrayLike
    swa_first_step: jax.typing.ArrayLike


@struct.dataclass
class TrainState:
    """A run between two steps.

    Attributes:
        step: int32[], updates made so far.
        params: ``{"classifier": …}``, and ``"embedding"`` beside it when the method has an embedding space.
        batch_stats: running statistics of the classifier's BatchNorm.
        opt_state: Optax state for ``params``.
        average: moving or plain average of the classifier's params and batch_stats, or None.
    """
    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any = None

    def inference_variables(self):
        """Variables of the plain classifier that is judged: the averaged weights where there are any."""
        if self.average is not None:
            return self.average
        return {"params": self.params["classifier"], "batch_stats": self.batch_stats}


def create_state(parts, key, image_shape, hparams, average):
    """A new run's state.

    Args:
        parts: the run's :class:`~morel_jax.training.step.Parts`.
        key: initial values depend on it alone.
        image_shape: (h, w, c) of one image.
        hparams: :class:`HParams`; its values do not change the initial state.
        average: keep a moving average of the weights.

    Returns:
        TrainState at step 0.
    """
    classifier_key, embedding_key = jax.random.split(key)
    variables = parts.model.init(classifier_key, jnp.zeros((1, *image_shape), jnp.float32))
    params = {"classifier": variables["params"]}
    batch_stats = variables.get("batch_stats", {})
    if parts.embedding is not None:
        features = jax.eval_shape(parts.model.apply, variables, jnp.zeros((1, *image_shape), jnp.float32)).features
        params["embedding"] = parts.embedding.init(
            embedding_key, jnp.zeros(features.shape, features.dtype), jnp.zeros((1,), jnp.int32))["params"]
    state = TrainState(step=jnp.zeros((), jnp.int32), params=params, batch_stats=batch_stats,
                       opt_state=parts.optimizer(hparams).init(params))
    # A copy: the step donates its state, and one buffer cannot be given away twice.
    return state.replace(average=jax.tree.map(jnp.copy, state.inference_variables())) if average else state
