"""The fast gradient sign method."""
import jax
import jax.numpy as jnp
from flax import struct

from morel_jax.attacks.inputs import prepare
from morel_jax.attacks.norms import norm as known_norm
from morel_jax.attacks.types import Images, KeyOrKeys, Labels, LogitsFn
from morel_jax.losses.classification import cross_entropy


@struct.dataclass
class FGSM:
    """One step of length epsilon along the sign of the cross-entropy's gradient g = grad_x l_ce(x, y).

        linf:  x' = clip(x + epsilon sign(g), 0, 1)
        l2:    x' = clip(x + epsilon g / |g|, 0, 1)

    It is PGD's single step of size epsilon from the clean image. A pixel whose gradient is zero stays.

    Attributes:
        epsilon: radius, in pixel units of images in [0, 1], such as 8 / 255.
        norm: ``linf`` or ``l2``; static.

    Reference: Goodfellow et al., arXiv:1412.6572, section 4.
    """
    epsilon: jax.typing.ArrayLike
    norm: str = struct.field(pytree_node=False, default="linf")

    def __call__(self, logits_fn: LogitsFn, key: KeyOrKeys, x: Images, y: Labels) -> Images:
        """Images in the ball and in [0, 1], through which no gradient flows; ``key`` is not used.

        Raises:
            ValueError: an unknown norm; images, labels, logits or ``epsilon`` that make no sense, where their values
                are known.
        """
        del key
        attack, logits_fn, x, y, finish = prepare(self, logits_fn, x, y)
        gradient = jax.grad(lambda x: cross_entropy(logits_fn(x), y).sum())(x)
        direction = known_norm(self.norm).direction(gradient)
        return jax.lax.stop_gradient(finish(jnp.clip(x + attack.epsilon * direction, 0.0, 1.0)))
