"""Losses on the embedding space, MOREL's L_1. One value per row, in the embeddings' dtype."""
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from morel_jax.losses.classification import check_number, check_pair

Embeddings = Float[Array, "n embed_dim"]


def _unit(z: Embeddings, tiny: float = 1e-12) -> Embeddings:
    return z * jax.lax.rsqrt(jnp.maximum(jnp.sum(z * z, axis=-1, keepdims=True), tiny))


def cosine_alignment(s: Embeddings, s_adv: Embeddings) -> Float[Array, " n"]:
    """Cosine distance between an image's embedding and that of its adversarial counterpart.

        l_i = 1 - <s_i, s'_i> / (|s_i| |s'_i|)

    Args:
        s, s_adv: natural and adversarial; row i comes from image i.

    Returns:
        Values in [0, 2] up to rounding, unitless; 0 when parallel, 2 when opposed. A zero row scores 1 and its gradient
        stays finite. A norm below 1e-6 counts as 1e-6.

    Raises:
        ValueError: shapes differ (found while tracing).

    Reference: Eq. 8, Hotegni and Peitz, arXiv:2410.01697, is the mean of l.
    """
    check_pair("s", s, "s_adv", s_adv)
    return 1 - jnp.sum(_unit(s) * _unit(s_adv), axis=-1)


def multi_positive_contrastive(embeddings: Embeddings, labels: Int[Array, " n"], temperature: ArrayLike = 0.1,
                               mask: Bool[Array, " n"] | None = None) -> Float[Array, " n"]:
    """Multi-positive contrastive loss: pulls each row towards the others of its class, and away from the rest.

        l_j = -1/|P(j)| sum_{p in P(j)} log( exp(<t_j, t_p> / tau) / sum_{q != j} exp(<t_j, t_q> / tau) )

    with t the rows divided by their norms and P(j) the other rows with the label of row j. Two readings use it:

    - `paper`: on the 2n rows concatenate([t, t']) with concatenate([y, y]), natural and adversarial; the loss is the
      sum of l, as Eq. 9 is printed. Every anchor then has a positive.
    - `reference`: on the n natural rows; the loss is the mean of l over all n anchors, including those without
      positives.

    Args:
        embeddings: of any scale: rows are normalised here (Eq. 7), a norm below 1e-6 counting as 1e-6.
        temperature: tau > 0; may be traced.
        mask: false on padding; None for none. A masked row is neither anchor nor candidate, and may be anything, even
            NaN.

    Returns:
        Values in nats, at least 0 up to rounding; 0 for an anchor without positives and for masked rows. Finite with
        finite gradients at zero rows, identical rows and small temperatures (tested to 1e-6).

    Raises:
        ValueError: shapes do not fit, or labels are not integers (found while tracing); temperature is known and not
            a finite number above 0.

    Reference: Eq. 9, Hotegni and Peitz, arXiv:2410.01697.
    """
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError("embeddings must have shape [n, embed_dim] and labels [n]; "
                         f"got embeddings {embeddings.shape}, labels {labels.shape}.")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers; got {labels.dtype}.")
    check_number("temperature", temperature, least=float(jnp.finfo(jnp.float32).tiny))
    if mask is None:
        mask = jnp.ones(labels.shape, bool)
    check_pair("mask", mask, "labels", labels)
    mask = mask.astype(bool)

    t = _unit(jnp.where(mask[:, None], embeddings, 0))
    # Accelerators may round the factors of a float32 product; dividing by a small tau would magnify that.
    similarity = jnp.matmul(t, t.T, precision=jax.lax.Precision.HIGHEST) / jnp.asarray(temperature, t.dtype)
    candidates = mask[:, None] & mask[None, :] & ~jnp.eye(t.shape[0], dtype=bool)
    positives = candidates & (labels[:, None] == labels[None, :])
    # A finite floor: with -inf, a row without candidates would have an inner NaN, which jax_debug_nans reports.
    log_total = jax.nn.logsumexp(jnp.where(candidates, similarity, jnp.finfo(t.dtype).min), axis=-1)
    count = jnp.sum(positives, axis=-1, dtype=t.dtype)
    drawn = jnp.sum(jnp.where(positives, similarity, 0), axis=-1) / jnp.maximum(count, 1)
    return jnp.where(count > 0, log_total - drawn, 0)
