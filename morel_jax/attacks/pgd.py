"""Projected gradient descent in the Linf ball."""
import jax
import jax.numpy as jnp
from flax import struct

from morel_jax.attacks import linf
from morel_jax.losses.classification import cross_entropy, kl_divergence, margin


def _cross_entropy(logits_fn, x, y):
    del x
    return lambda x_adv: cross_entropy(logits_fn(x_adv), y).sum()


def _kl(logits_fn, x, y):
    del y
    clean_logits = jax.lax.stop_gradient(logits_fn(x))
    return lambda x_adv: kl_divergence(clean_logits, logits_fn(x_adv)).sum()


def _margin(logits_fn, x, y):
    del x
    return lambda x_adv: margin(logits_fn(x_adv), y).sum()


# Each gives the function of x_adv to climb; a sum, as a mean would divide each gradient by the batch size.
LOSSES = {"ce": _cross_entropy, "kl": _kl, "margin": _margin}


@struct.dataclass
class PGD:
    """Linf projected gradient ascent (Madry et al., arXiv:1706.06083; MOREL's Eqs. 2 and 3).

    Attributes:
        epsilon: radius, in pixel units of images in [0, 1], such as 8 / 255.
        step_size: size of one step, same units.
        num_steps: steps taken; static, as it fixes the compiled loop.
        start: ``uniform`` in the ball, ``normal`` (x + 0.001 N(0, 1)) or ``clean``; static.
        loss: what is climbed: ``ce`` cross-entropy, ``kl`` KL(clean || adversarial) as in TRADES, or ``margin``
            (largest other logit minus the label's); static. The clean outputs that ``kl`` needs are computed once.
    """
    epsilon: jax.typing.ArrayLike
    step_size: jax.typing.ArrayLike
    num_steps: int = struct.field(pytree_node=False, default=10)
    start: str = struct.field(pytree_node=False, default="uniform")
    loss: str = struct.field(pytree_node=False, default="ce")

    def __call__(self, logits_fn, key, x, y):
        """Adversarial images.

        Args:
            logits_fn: images float[n, h, w, c] -> logits float[n, classes].
            key: one key, or keys[n], one an example.
            x: float[n, h, w, c], images in [0, 1].
            y: int[n], labels.

        Returns:
            float[n, h, w, c] in the ball and in [0, 1]; no gradient flows through it.

        Raises:
            ValueError: unknown ``start`` or ``loss``, or ``kl`` from a ``clean`` start, where its gradient is zero.
        """
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {sorted(LOSSES)}; got {self.loss!r}.")
        if self.loss == "kl" and self.start == "clean":
            raise ValueError("loss 'kl' needs a random start: its gradient is zero at the clean image; "
                             "got start 'clean'.")
        gradient = jax.grad(LOSSES[self.loss](logits_fn, x, y))

        def step(_, x_adv):
            return linf.project(x_adv + self.step_size * jnp.sign(gradient(x_adv)), x, self.epsilon)

        start = linf.start_point(self.start, key, x, self.epsilon)
        return jax.lax.stop_gradient(jax.lax.fori_loop(0, self.num_steps, step, start))
