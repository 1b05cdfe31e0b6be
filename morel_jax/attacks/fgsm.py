"""The fast gradient sign method."""
import jax
import jax.numpy as jnp
from flax import struct

from morel_jax.attacks.draws import draw_keys, mean_over_draws
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
        eot: gradients averaged, for networks that answer at random; above 1 the network is called as
            ``logits_fn(x, keys)`` with keys[n]; static.

    Reference: Goodfellow et al., arXiv:1412.6572, section 4.
    """
    epsilon: jax.typing.ArrayLike
    norm: str = struct.field(pytree_node=False, default="linf")
    eot: int = struct.field(pytree_node=False, default=1)

    def __call__(self, logits_fn: LogitsFn, key: KeyOrKeys, x: Images, y: Labels) -> Images:
        """Images in the ball and in [0, 1], through which no gradient flows; ``key`` is of the network's draws alone.

        Raises:
            ValueError: an unknown norm; images, labels, logits or ``epsilon`` that make no sense, where their values
                are known.
        """
        attack, logits_fn, x, y, finish = prepare(self, logits_fn, x, y)

        def gradient_of(network: LogitsFn) -> Images:
            return jax.grad(lambda x: cross_entropy(network(x), y).sum())(x)

        gradient = mean_over_draws(gradient_of, logits_fn, draw_keys(self.eot, key, x.shape[0]), self.eot)
        direction = known_norm(self.norm).direction(gradient)
        return jax.lax.stop_gradient(finish(jnp.clip(x + attack.epsilon * direction, 0.0, 1.0)))
