"""MOREL over a robust classification loss (Hotegni and Peitz, arXiv:2410.01697)."""
import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from morel_jax import losses
from morel_jax.methods.method import Loss, Method, Objective, Views
from morel_jax.methods.types import Config, HParams, Labels, Rates, Values
from morel_jax.schema import (
    AT_LEAST_1,
    LARGEST_INT,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Field,
    Rule,
    each,
    error,
    one_of,
)

FIELDS = {
    "embedding.embed_dim": Field(128, "Width b of the embedding space.", Rule(
        lambda value: 1 <= value and 3 * value**2 <= LARGEST_INT,
        "be at least 1, and its attention's 3 embed_dim**2 weights fewer than 2**31"), "paper, 4.1"),
    "embedding.num_heads": Field(2, "Heads m of the class-adaptive attention.", AT_LEAST_1, "paper, 4.1"),
    "embedding.dropout": Field(0.0, "Share of the attention's weights that are left out at random.", SHARE,
                               "the authors' package"),
    "morel.scalarization": Field("conic", "How the losses become one step: conic, weighted_sum and smooth_tchebycheff "
                                 "join them by the preference; famo learns weights for them; the others join their "
                                 "gradients. These and famo use no preference.", one_of(*losses.MULTI_OBJECTIVE)),
    "morel.objectives": Field("two", "What is joined: the representation and the classification loss, or, without "
                              "preference, three: the weighted cosine and contrastive losses and the classification "
                              "loss.", one_of("two", "three")),
    "morel.preference": Field((0.1, 0.9), "k: weights of the representation loss and of the classification loss.",
                              source="paper, 4.1", traced="preference"),
    "morel.reference_point": Field((0.0, 0.0), "a of conic scalarization.", source="paper, 4.1",
                                   traced="reference_point"),
    "morel.augmentation": Field(2e-5, "gamma of conic scalarization.", source="paper, 4.1", traced="augmentation"),
    "morel.conditioned": Field(False, "One network for all preferences: BatchNorm's scales and biases depend on k_1, "
                               "which each example draws from preference_range in training. With conic or "
                               "weighted_sum.", source="after Wang et al., arXiv:2010.11828, with lambda"),
    "morel.preference_range": Field((0.1, 0.9), "Ends of the uniform distribution of a conditioned network's k_1; k_2 "
                                    "is 1 - k_1.", each(Rule(lambda value: 0 <= value <= 1, "be in [0, 1]")),
                                    traced="preference_range"),
    "morel.judged_preference": Field(0.5, "k_1 at which a conditioned network is validated.",
                                     Rule(lambda value: 0 <= value <= 1, "be in [0, 1]")),
    "morel.smoothing": Field(0.1, "mu of smooth_tchebycheff, in the units of k times a loss.", POSITIVE,
                             "one of the four of Lin et al., arXiv:2402.19078", traced="smoothing"),
    "morel.famo_learning_rate": Field(0.025, "Adam's, of famo's logits.", NOT_NEGATIVE, "Liu et al., arXiv:2306.03792",
                                      traced="famo_learning_rate"),
    "morel.famo_weight_decay": Field(1e-3, "Of famo's logits.", NOT_NEGATIVE, "Liu et al., arXiv:2306.03792",
                                     traced="famo_weight_decay"),
    "morel.cosine_weight": Field(1.0, "Weight of the cosine loss; 0 leaves the contrastive loss alone.",
                                 NOT_NEGATIVE, "not in the paper, where it is 1", traced="cosine_weight"),
    "morel.contrastive_weight": Field(1e-5, "alpha: weight of the contrastive loss.",
                                      Rule(lambda value: 0 <= value < 1, "be in [0, 1), as Eq. 10 has it, or 0"),
                                      "paper, 4.1", traced="contrastive_weight"),
    "morel.temperature": Field(0.1, "tau of the contrastive loss.", Rule(
        lambda value: value >= 1e-6, "be at least 1e-6, the rounding of the similarities over it"),
        "not in the paper; reference", traced="temperature"),
    "morel.contrastive_rows": Field("both", "Anchors of the contrastive loss: the 2n natural and adversarial rows, the "
                                    "n natural, or the n adversarial ones.", one_of("both", "natural", "adversarial"),
                                    "Eq. 9 runs over 2n rows"),
    "morel.contrastive_reduction": Field("sum", "How the anchors' losses are joined.", one_of("sum", "mean"),
                                         "Eq. 9 is printed as a sum"),
}
# Paper, 4.1: initial rate, and its divisions by 100 (WRN) or 10 (ResNet18) at epochs 75 and 90.
_RATES = {
    "resnet18": {"learning_rate": 0.001, "drop_epochs": (75, 90), "drop_factors": (0.1, 0.01)},
    "wide_resnet34_10": {"learning_rate": 0.01, "drop_epochs": (75, 90), "drop_factors": (0.01, 0.0001)},
}
# Those that weigh each example's own terms, and all that use the preference.
_BY_EXAMPLE = ("conic", "weighted_sum")
_BY_PREFERENCE = (*_BY_EXAMPLE, "smooth_tchebycheff")
_REDUCTIONS = {"sum": jnp.sum, "mean": jnp.mean}


def check(config: Config) -> None:
    """Raises ValueError where the embedding space or the scalarization cannot work."""
    if config.embedding.embed_dim % config.embedding.num_heads:
        raise error("embedding.embed_dim", f"be a multiple of embedding.num_heads ({config.embedding.num_heads})",
                    config.embedding.embed_dim)
    scalarization, preference = config.morel.scalarization, config.morel.preference
    if config.morel.conditioned:
        if scalarization not in _BY_EXAMPLE:
            raise error("morel.conditioned", f"be False with config.morel.scalarization {scalarization}, which does "
                        "not weigh each example by its own preference", config.morel.conditioned)
        ends = config.morel.preference_range
        if len(ends) != 2 or ends[0] > ends[1]:
            raise error("morel.preference_range", "be (lowest, highest)", ends)
    if config.morel.objectives == "three" and scalarization in _BY_PREFERENCE:
        raise error("morel.objectives", f"be two with config.morel.scalarization {scalarization}, which weighs two "
                    "by the preference", config.morel.objectives)
    if len(preference) != 2:
        raise error("morel.preference", "have two entries, (representation, classification)", preference)
    if len(config.morel.reference_point) != 2 and scalarization == "smooth_tchebycheff":
        raise error("morel.reference_point", "have two entries, (representation, classification)",
                    config.morel.reference_point)
    if scalarization == "conic":
        try:
            losses.check_conic(preference, config.morel.reference_point, config.morel.augmentation)
        except ValueError as problem:
            raise ValueError(f"config.morel.{problem}") from None
    elif min(preference) < 0 or max(preference) == 0:
        raise error("morel.preference", "be 0 or more, and one of them positive", preference)


@dataclasses.dataclass(frozen=True, eq=False)
class Morel(Method):
    """MOREL over the method whose loss is its second objective; made by :func:`over`."""
    has_embedding = True

    def combine(self, config: Config) -> Callable[[Float[Array, "m m"]], Float[Array, " m"]] | None:
        """See :class:`Method`."""
        return losses.GRADIENT_METHODS.get(config.morel.scalarization)

    def is_conditioned(self, config: Config) -> bool:
        """See :class:`Method`."""
        return config.morel.conditioned

    def famo_objectives(self, config: Config) -> int:
        """See :class:`Method`."""
        is_three = config.morel.objectives == "three"
        return 2 + is_three if config.morel.scalarization == "famo" else 0

    def objective(self, config: Config, loss: Loss | None = None) -> Objective:
        """Eqs. 8 to 10, joined by the preference.

        With one of ``losses.GRADIENT_METHODS`` or FAMO the value is float[2] or float[3], the losses, and ``loss`` in
        the metrics is their sum. Arguments and result as in :meth:`Method.objective`, without mixed labels.
        """
        classification = self.of_each(config, loss)
        scalarization, rows = config.morel.scalarization, config.morel.contrastive_rows
        reduction = _REDUCTIONS[config.morel.contrastive_reduction]

        def contrastive(views: Views, labels: Labels, hparams: HParams) -> Float[Array, " rows"]:
            attended = views.attended_adv if rows == "adversarial" else views.attended
            if rows == "both":
                attended = jnp.concatenate([attended, views.attended_adv])
                labels = jnp.concatenate([labels, labels])
            return losses.multi_positive_contrastive(attended, labels, hparams.temperature)

        def by_example(cosine: Values, clustering: Values, accuracy: Values, hparams: HParams) -> Float[Array, ""]:
            """CS or WS with a preference of each example, which weighs its own terms."""
            first, second = hparams.preference.T
            of_rows = jnp.concatenate([first] * (len(clustering) // len(first)))

            def weighed(first: Values, of_rows: Values, second: Values) -> Float[Array, "2"]:
                representation = (hparams.cosine_weight * jnp.mean(first * cosine)
                                  + hparams.contrastive_weight * reduction(of_rows * clustering))
                return jnp.stack([representation, jnp.mean(second * accuracy)])

            value = jnp.sum(weighed(first, of_rows, second))
            if scalarization == "conic":
                excess = weighed(*map(jnp.ones_like, (first, of_rows, second))) - hparams.reference_point
                value += hparams.augmentation * jnp.sum(excess)
                value -= jnp.sum(jnp.mean(hparams.preference, axis=0) * hparams.reference_point)
            return value

        def joined(views: Views, labels: Labels, hparams: HParams) -> tuple[Array, dict[str, Array]]:
            of_each = (losses.cosine_alignment(views.projected, views.projected_adv),
                       contrastive(views, labels, hparams), classification(views, labels, hparams))
            cosine, clustering = jnp.mean(of_each[0]), reduction(of_each[1])
            terms = hparams.cosine_weight * cosine, hparams.contrastive_weight * clustering
            representation, accuracy = terms[0] + terms[1], jnp.mean(of_each[2])
            both = jnp.stack([representation, accuracy])
            if config.morel.conditioned:
                value = by_example(*of_each, hparams)
            elif scalarization == "conic":
                value = losses.conic(both, hparams.preference, hparams.reference_point, hparams.augmentation)
            elif scalarization == "weighted_sum":
                value = losses.weighted_sum(both, hparams.preference)
            elif scalarization == "smooth_tchebycheff":
                value = losses.smooth_tchebycheff(both, hparams.preference, hparams.reference_point, hparams.smoothing)
            else:
                value = jnp.stack([*terms, accuracy]) if config.morel.objectives == "three" else both
            return value, {"loss": jnp.sum(value), "representation_loss": representation,
                           "classification_loss": accuracy, "cosine_loss": cosine, "contrastive_loss": clustering}

        return joined


def over(base: Method) -> Morel:
    """MOREL over a Method that has natural and adversarial passes."""
    def recipe(config: Config, rates: Rates) -> None:
        config.optimizer.update({**_RATES, **rates}.get(config.model.name, _RATES["resnet18"]))

    def reference(config: Config) -> None:
        base.reference(config)
        config.optimizer.update({"learning_rate": 0.01, "drop_epochs": (75, 90), "drop_factors": (0.01, 0.0001)})

    return Morel(f"morel_{base.name}", base.loss, attack_loss=base.attack_loss, fields={**base.fields, **FIELDS},
                 static=base.static, schedule=base.schedule, recipe=recipe, reference=reference, check=check,
                 coupling="contrastive loss and class attention", smooths_labels=base.smooths_labels)
