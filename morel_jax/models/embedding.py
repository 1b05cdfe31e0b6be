"""The embedding space of MOREL: linear layer L_e and class-adaptive attention M_e. Training only."""
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from morel_jax.models.linear import Linear

# Of a larger width the attention's weights, its square, fit no memory.
_WIDEST = 65536


class EmbeddingSpace(nn.Module):
    """Projects features, then lets each image attend to the images of its own class.

    Algorithm 1 runs attention on each class's rows separately. Here it is one attention over the batch under the mask
    ``labels[i] == labels[j]``, with the same result and shapes that do not depend on the labels:

        s = L_e(z)
        q, k, v = split(LayerNorm(s) W_qkv + b_qkv)
        t = s + concat_h(softmax(mask(q_h k_h^T / sqrt(embed_dim / num_heads))) v_h) W_out + b_out

    The residual is s before the LayerNorm. Biases, initial values (PyTorch's; Xavier-uniform for the packed W_qkv, zero
    for both attention biases) and the LayerNorm's epsilon of 1e-6 are the reference implementation's. All is float32.

    Attributes:
        embed_dim: width of both results, at most 65536.
        num_heads: attention heads; divides embed_dim.
        dropout: share of the attention's weights that are left out at random in training, the others scaled up.

    Raises:
        ValueError: num_heads does not divide embed_dim, embed_dim is too large, labels are not integers, or features,
            labels and mask differ in their rows (when called).

    Reference: Hotegni and Peitz, arXiv:2410.01697, Algorithm 1.
    """
    embed_dim: int = 128
    num_heads: int = 2
    dropout: float = 0.0

    @nn.compact
    def __call__(self, features: Float[Array, "n width"], labels: Int[Array, " n"],
                 mask: Bool[Array, " n"] | None = None, key: Array | None = None,
                 ) -> tuple[Float[Array, "n embed_dim"], Float[Array, "n embed_dim"]]:
        """One embedding per row, in the batch's order.

        Args:
            mask: False for padding rows; None if there are none. A padding row attends only to itself, and no other row
                attends to it.
            key: of the dropout; None: nothing is left out.

        Returns:
            (projected, attended): s and t, float32.
        """
        if self.num_heads < 1 or self.embed_dim % self.num_heads:
            raise ValueError("embed_dim must be a multiple of num_heads; "
                             f"got embed_dim={self.embed_dim} and num_heads={self.num_heads}.")
        if self.embed_dim > _WIDEST:
            raise ValueError(f"embed_dim must be at most {_WIDEST}; got {self.embed_dim}.")
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise ValueError(f"labels must be integers; got {labels.dtype}.")
        n = features.shape[0]
        for name, rows in (("labels", labels), ("mask", mask)):
            if rows is not None and rows.shape != (n,):
                raise ValueError(f"{name} must have a value for each of the {n} rows of features; "
                                 f"got shape {rows.shape}.")
        projected = Linear(self.embed_dim, name="projection")(features)
        together = labels[:, None] == labels[None, :]
        if mask is not None:
            together &= mask[:, None] & mask[None, :]
        # Every row sees itself, so that no softmax is over nothing.
        together |= jnp.eye(n, dtype=bool)

        # The fast variance cancels where a row's mean is large against its deviation.
        normed = nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, name="norm")(projected)
        zeros = nn.initializers.zeros
        qkv = Linear(3 * self.embed_dim, nn.initializers.xavier_uniform(), zeros, name="qkv")(normed)
        head_width = self.embed_dim // self.num_heads
        q, k, v = jnp.moveaxis(qkv.reshape(n, 3, self.num_heads, head_width), 1, 0)
        scores = jnp.einsum("ihd,jhd->hij", q, k) * head_width ** -0.5
        weights = jax.nn.softmax(jnp.where(together, scores, -jnp.inf), axis=-1)
        if self.dropout and key is not None:
            weights *= jax.random.bernoulli(key, 1 - self.dropout, weights.shape) / (1 - self.dropout)
        mixed = jnp.einsum("hij,jhd->ihd", weights, v).reshape(n, self.embed_dim)
        return projected, projected + Linear(self.embed_dim, bias_init=zeros, name="out")(mixed)
