"""The declaration of a training method."""
import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from morel_jax.checks import describe
from morel_jax.methods.types import Config, HParams, Labels, Rates, Values
from morel_jax.schema import NOT_NEGATIVE, SHARE, Field

NATURAL, ADVERSARIAL = KINDS = ("natural", "adversarial")
_ABSENT: Any = None  # Of a field of Views that the method does not read.

# Fields of several methods.
BETA = Field(6.0, "Weight of the robust term.", NOT_NEGATIVE, "paper, 4.1: 1/lambda, for TRADES and MART",
             traced="beta")
LABEL_SMOOTHING = Field(0.0, "Of the cross-entropy, in the methods whose loss has a plain one.", SHARE,
                        "Szegedy et al., arXiv:1512.00567", traced="label_smoothing")
# Learning rates in the scripts published with TRADES and with MART.
BASELINE_DROPS = {"drop_epochs": (75, 90, 100), "drop_factors": (0.1, 0.01, 0.001)}


@dataclasses.dataclass(frozen=True)
class Views:
    """The networks' outputs for one batch; a field that a method does not compute is None.

    Attributes:
        logits, logits_adv: natural and adversarial.
        projected, projected_adv: L_e's outputs s and s'.
        attended, attended_adv: M_e's outputs t and t'.
    """
    logits: Float[Array, "n classes"] = _ABSENT
    logits_adv: Float[Array, "n classes"] = _ABSENT
    projected: Float[Array, "n embed_dim"] = _ABSENT
    projected_adv: Float[Array, "n embed_dim"] = _ABSENT
    attended: Float[Array, "n embed_dim"] = _ABSENT
    attended_adv: Float[Array, "n embed_dim"] = _ABSENT


class MixedLabels(struct.PyTreeNode):
    """Labels of images that are each a mix of two; ``share`` is the first's."""
    first: Labels
    second: Labels
    share: Values


Loss = Callable[[Views, Labels, HParams], Values]
Objective = Callable[[Views, Any, HParams], tuple[Array, dict[str, Array]]]


def _nothing(*_: Any) -> Any:
    return {}


def _per_example(loss: Loss) -> Loss:
    """A loss of the caller's own; the shape of its result is checked while it is traced."""
    def checked(views: Views, labels: Labels, hparams: HParams) -> Values:
        values = loss(views, labels, hparams)
        if getattr(values, "shape", None) != labels.shape or not jnp.issubdtype(values.dtype, jnp.floating):
            raise ValueError(f"loss must return a floating number for each example, float{list(labels.shape)}; got "
                             f"{describe(values)}.")
        return values

    return checked


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
    """A way to train. A module of ``morel_jax.methods`` with one as its ``METHOD`` is all that a new method needs.

    Attributes:
        name: in ``config.method``.
        loss: ``(views, labels, hparams, **static)`` -> one value per example; their mean is minimised.
        passes: which images the update sends through the network, of ``natural`` and ``adversarial``.
        attack_loss: what its training attack climbs, of ``morel_jax.attacks.pgd.LOSSES``.
        fields: {"section.field": Field} of the config that the method reads.
        static: config -> keyword arguments of ``loss`` that are fixed when the step is compiled.
        schedule: (config, epoch) -> {leaf of HParams: value} of its numbers that depend on the epoch.
        recipe: (config, rates) -> None; writes the published settings into a config of defaults. ``rates`` are those of
            the config's file besides the paper's.
        reference: writes what the ``reference`` variant changes into a config.
        check: raises ValueError where its fields cannot work together. It is called whatever the method is.
        coupling: through what an example's loss depends on the rest of the batch; "" where it does not.
        smooths_labels: whether ``config.loss.label_smoothing`` reaches its loss.
        mixes_labels: whether an image of two labels may have the mean of the two losses.
    """
    name: str
    loss: Callable[..., Values]
    passes: tuple[str, ...] = KINDS
    attack_loss: str = "ce"
    fields: Mapping[str, Field] = dataclasses.field(default_factory=dict)
    static: Callable[[Config], dict[str, Any]] = _nothing
    schedule: Callable[[Config, int], dict[str, Any]] = _nothing
    recipe: Callable[[Config, Rates], None] = _nothing
    reference: Callable[[Config], None] = _nothing
    check: Callable[[Config], None] = _nothing
    coupling: str = ""
    smooths_labels: bool = False
    mixes_labels: bool = False
    has_embedding = False

    def combine(self, config: Config) -> Callable[[Float[Array, "m m"]], Float[Array, " m"]] | None:
        """Of ``losses.GRADIENT_METHODS``, where the objective gives losses that it joins; None where it gives one."""
        del config
        return None

    def is_conditioned(self, config: Config) -> bool:
        """Whether the network takes the preference as an input."""
        del config
        return False

    def famo_objectives(self, config: Config) -> int:
        """How many losses the objective gives for FAMO to weigh; 0 where it gives one, or ``combine`` joins them."""
        del config
        return 0

    def of_each(self, config: Config, loss: Loss | None = None) -> Loss:
        """The method's loss as ``config`` has it, or the caller's own."""
        return _per_example(loss) if loss else partial(self.loss, **self.static(config))

    def objective(self, config: Config, loss: Loss | None = None) -> Objective:
        """What a step minimises, as (views, labels, hparams) -> (scalar, {metric: scalar}).

        Labels may be :class:`MixedLabels`. ``loss`` is the caller's own, in place of the method's.
        """
        of_each = self.of_each(config, loss)

        def mean(views: Views, labels: Labels | MixedLabels, hparams: HParams) -> tuple[Array, dict[str, Array]]:
            if isinstance(labels, MixedLabels):
                values = (labels.share * of_each(views, labels.first, hparams)
                          + (1 - labels.share) * of_each(views, labels.second, hparams))
            else:
                values = of_each(views, labels, hparams)
            value = jnp.mean(values)
            return value, {"loss": value}

        return mean
