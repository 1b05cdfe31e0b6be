"""How weights move: SGD, its learning rate, averages of the weights, and adversarial weight perturbation."""
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PyTree
from ml_collections import ConfigDict

from morel_jax.schema import AT_LEAST_1, LARGEST_FLOAT, NOT_NEGATIVE, SHARE, Field, Rule, each, error, one_of

FIELDS = {
    "ema_decay": Field(0.0, "Share that a moving average of the weights keeps in a step. The average is evaluated; 0: "
                       "no average.", SHARE, traced="ema_decay"),
    "swa_first_epoch": Field(0, "First epoch of a plain mean of the weights and of BatchNorm's statistics over the "
                             "steps since then. The mean is evaluated; 0: no mean. SWA takes a mean over epochs and "
                             "computes the statistics again.", NOT_NEGATIVE, "Izmailov et al., arXiv:1803.05407",
                             swept=True),
    "optimizer.learning_rate": Field(0.001, "Initial learning rate of SGD; the highest of one_cycle and cyclic.",
                                     NOT_NEGATIVE, "paper, 4.1: ResNet18", swept=True),
    "optimizer.momentum": Field(0.9, "Momentum of SGD.", SHARE, "paper, 4.1", traced="momentum"),
    "optimizer.nesterov": Field(False, "Nesterov's form of the momentum, as in PyTorch.",
                                source="Sutskever et al., ICML 2013"),
    "optimizer.weight_decay": Field(1e-4, "Added to the gradient times the weights, as PyTorch's SGD does.",
                                    NOT_NEGATIVE, "paper, 4.1", traced="weight_decay"),
    "optimizer.schedule": Field("drops", "How the learning rate changes: drops at the drop_epochs; cosine, half a "
                                "cosine down to 0 after the last epoch (arXiv:1608.03983); one_cycle, linear by step "
                                "from 0 up to the rate and down to 0 (arXiv:1708.07120); cyclic, triangles by step "
                                "(arXiv:1506.01186, and one triangle in arXiv:2001.03994).",
                                one_of("drops", "cosine", "one_cycle", "cyclic")),
    "optimizer.warmup_epochs": Field(0, "Epochs in which drops or cosine raise the rate linearly to the initial one.",
                                     NOT_NEGATIVE, "Goyal et al., arXiv:1706.02677", swept=True),
    "optimizer.drop_epochs": Field((75, 90), "The first epochs at the lower rates, counted from 1.",
                                   each(Rule(AT_LEAST_1.holds, "be at least 1, counted from 1")), "paper, 4.1",
                                   swept=True),
    "optimizer.drop_factors": Field((0.1, 0.01), "Factors on the initial rate from those epochs on.",
                                    each(NOT_NEGATIVE), "paper, 4.1: ResNet18", swept=True),
    "optimizer.cycle_peak": Field(0.4, "Share of the training after which one_cycle is at its highest rate.", SHARE,
                                  "Rice et al., arXiv:2002.11569", swept=True),
    "optimizer.cycles": Field(1, "Triangles of cyclic in the whole training.", AT_LEAST_1,
                              "Wong et al., arXiv:2001.03994", swept=True),
    "loss.awp": Field(False, "Adversarial weight perturbation: gradients are taken at perturbed weights.",
                      source="Wu et al., arXiv:2004.05884"),
    "loss.awp_gamma": Field(0.005, "Size of the perturbation as a share of each layer's norm.", SHARE,
                            "Wu et al., with TRADES", swept=True),
    "loss.awp_first_epoch": Field(1, "First epoch with weight perturbation.", AT_LEAST_1, swept=True),
}
_BY_STEP = ("one_cycle", "cyclic")


def check(config: ConfigDict) -> None:
    """Raises ValueError where fields of the optimiser cannot work together."""
    optimizer = config.optimizer
    if config.swa_first_epoch > config.epochs:
        raise error("swa_first_epoch", f"be at most config.epochs ({config.epochs})", config.swa_first_epoch)
    if config.swa_first_epoch and config.ema_decay:
        raise error("swa_first_epoch", "be 0 where config.ema_decay is not: one average is kept",
                    config.swa_first_epoch)
    if optimizer.warmup_epochs >= config.epochs:
        raise error("optimizer.warmup_epochs", f"be less than config.epochs ({config.epochs})",
                    optimizer.warmup_epochs)
    if optimizer.warmup_epochs and optimizer.schedule in _BY_STEP:
        raise error("optimizer.warmup_epochs", f"be 0 with optimizer.schedule {optimizer.schedule}, which begins at 0",
                    optimizer.warmup_epochs)
    if len(optimizer.drop_epochs) != len(optimizer.drop_factors):
        raise error("optimizer.drop_factors", "have as many entries as optimizer.drop_epochs "
                    f"({len(optimizer.drop_epochs)})", optimizer.drop_factors)
    if any(later <= earlier for earlier, later in itertools.pairwise(optimizer.drop_epochs)):
        raise error("optimizer.drop_epochs", "rise", optimizer.drop_epochs)
    if max(optimizer.drop_factors, default=0) * optimizer.learning_rate > LARGEST_FLOAT:
        raise error("optimizer.drop_factors", "give rates of at most 3.4e38 with optimizer.learning_rate",
                    optimizer.drop_factors)


def sgd(config: ConfigDict) -> Callable[[Any], optax.GradientTransformation]:
    """SGD with momentum and L2 weight decay, as PyTorch has it; the step applies the learning rate.

    Returns:
        HParams -> optax transformation.
    """
    nesterov = config.optimizer.nesterov

    def transformation(hparams: Any) -> optax.GradientTransformation:
        return optax.chain(optax.add_decayed_weights(hparams.weight_decay), optax.trace(hparams.momentum, nesterov))

    return transformation


def learning_rate(config: ConfigDict, epoch: int, step: int = 0, steps_per_epoch: int = 1) -> float:
    """The rate of one step.

    With ``drops`` and ``cosine`` all steps of an epoch have one rate. It rises linearly over the warm-up's epochs;
    after them it is the initial one times the factor of the last drop reached, or times half a cosine: 1 in the first
    epoch after the warm-up and 0 after the last. ``one_cycle`` and ``cyclic`` are piecewise linear in the step.

    Args:
        epoch: counted from 1.
        step: of the epoch, counted from 0.
        steps_per_epoch: how many an epoch has.
    """
    optimizer = config.optimizer
    initial, warmup = optimizer.learning_rate, optimizer.warmup_epochs
    if optimizer.schedule in _BY_STEP:
        done = (epoch - 1 + step / steps_per_epoch) / config.epochs
        peak = optimizer.cycle_peak
        if optimizer.schedule == "cyclic":
            done, peak = done * optimizer.cycles % 1.0, 0.5
        return initial * (done / peak if done < peak else (1 - done) / (1 - peak))
    if epoch <= warmup:
        return initial * epoch / (warmup + 1)
    if optimizer.schedule == "cosine":
        return initial * 0.5 * (1 + math.cos(math.pi * (epoch - 1 - warmup) / (config.epochs - warmup)))
    factor = 1.0
    for first, value in zip(optimizer.drop_epochs, optimizer.drop_factors, strict=True):
        if epoch >= first:
            factor = value
    return initial * factor


def schedule(config: ConfigDict, epoch: int, steps_per_epoch: int) -> dict[str, np.ndarray | np.generic]:
    """{leaf of HParams: its value} of the optimiser's numbers that depend on the epoch.

    Args:
        epoch: counted from 1.
        steps_per_epoch: 0 where nobody asks for the numbers that depend on it.

    Returns:
        dict: ``learning_rate`` float32[], or float32[steps_per_epoch] of the schedules that change it step by step;
        ``awp_gamma`` float32[]; ``swa_first_step`` int32[], the first step after which weights are in the plain mean,
        or -1.
    """
    if config.optimizer.schedule in _BY_STEP:
        steps = max(steps_per_epoch, 1)
        rate: np.ndarray | np.generic = np.array(
            [learning_rate(config, epoch, step, steps) for step in range(steps)], np.float32)
    else:
        rate = np.float32(learning_rate(config, epoch))
    return {
        "learning_rate": rate,
        "awp_gamma": np.float32(config.loss.awp_gamma if epoch >= config.loss.awp_first_epoch else 0),
        "swa_first_step": np.int32((config.swa_first_epoch - 1) * steps_per_epoch if config.swa_first_epoch else -1),
    }


def rate_at(hparams: Any, step: Int[Array, ""]) -> Float[Array, ""]:
    """The learning rate of update number ``step`` of a run, from an epoch's numbers."""
    rates = hparams.learning_rate
    return rates[step % len(rates)] if rates.ndim else rates


def keeps_average(config: ConfigDict) -> bool:
    """Whether an average of the weights is kept and evaluated."""
    return config.ema_decay > 0 or config.swa_first_epoch > 0


def moved(average: PyTree, latest: PyTree, kept: ArrayLike) -> PyTree:
    """A running average after one more value; ``kept`` is the share of the old one."""
    return jax.tree.map(lambda old, new: kept * old + (1.0 - kept) * new, average, latest)


def average_kept(hparams: Any, step: Int[Array, ""]) -> Float[Array, ""]:
    """Share of the average that ``step`` keeps: ema_decay, or n / (n + 1) with n steps in the plain mean before it."""
    before = jnp.maximum(step - hparams.swa_first_step, 0).astype(jnp.float32)
    return jnp.where(hparams.swa_first_step < 0, hparams.ema_decay, before / (before + 1))


def perturbed(params: dict[str, PyTree], grads: dict[str, PyTree], gamma: ArrayLike) -> dict[str, PyTree]:
    """Weights moved up the loss by one step of adversarial weight perturbation.

        w + gamma |w| g / |g|   for each array of two axes or more, norms over the array

    Biases and BatchNorm stay, and so does the embedding space.

    Args:
        params: ``{"classifier": …}``, and what else there is.
        grads: the loss's gradients, like ``params``.
        gamma: share of a layer's norm.

    Source: Wu, Xia and Wang, arXiv:2004.05884, Eqs. 8 to 10, in the form of the code published with it.
    """
    def move(w: Array, g: Array) -> Array:
        if w.ndim < 2:
            return w
        return w + gamma * jnp.linalg.norm(w) * g / jnp.maximum(jnp.linalg.norm(g), 1e-20)

    return params | {"classifier": jax.tree.map(move, params["classifier"], grads["classifier"])}
