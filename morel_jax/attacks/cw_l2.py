"""Carlini and Wagner's L2 attack (arXiv:1608.04644)."""
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from morel_jax.attacks.descent import Descent, descend, from_tanh, new_descent, to_tanh
from morel_jax.attacks.inputs import misclassified
from morel_jax.attacks.iterative import select
from morel_jax.attacks.nearest import NearestAttack, NearestState, begin_nearest
from morel_jax.attacks.types import Counts, Images, Keys, Labels, Logits, LogitsFn, Mask, Values
from morel_jax.losses.classification import margin

# The published constants: c is multiplied by this until a search succeeds; and a descent ends when its loss, looked at
# this many times, has not fallen to this fraction since the last look.
_RISE, _LOOKS, _PROGRESS = 10.0, 10, 0.9999


class CWL2State(NearestState):
    """
    Attributes:
        search: descents completed.
        const: weight of the classification term, c.
        below, above: the largest c that failed and the smallest that succeeded; 0 and infinity until there is one.
        succeeded: whether this descent has met an adversarial point.
        loss: when last looked at.
        descent: of this c.
    """
    search: Counts
    const: Values
    below: Values
    above: Values
    succeeded: Mask
    loss: Values
    descent: Descent


@struct.dataclass
class CWL2(NearestAttack[CWL2State]):
    """Untargeted CW-L2: descents on distance and margin together, with a binary search for the weight between them.

        l(x') = |x' - x|^2 + c max(z_y - max_{j != y} z_j + confidence, 0)

    Adam descends from the image, in tanh space so that pixels stay in [0, 1]; one that is 0 or 1 hardly moves there.
    Every point that is adversarial counts. c is then halved towards the largest that failed, or multiplied by 10 while
    none has succeeded.

    A descent may end early. The published code then looks at the loss of the whole batch, this one at the example's.

    Attributes:
        confidence: by how much another class is to lead, in logits.
        learning_rate: Adam's.
        max_iter: Adam's steps in a descent at most; static.
        num_searches: descents, one for each c; static.
        initial_const: first c, positive.
        abort_early: whether a descent ends when its loss has not fallen over a tenth of ``max_iter``; static.

    Raises (when called):
        ValueError: no steps.

    Reference: section VI.A of Carlini and Wagner, arXiv:1608.04644, with the constants of their code.
    """
    confidence: jax.typing.ArrayLike = 0.0
    learning_rate: jax.typing.ArrayLike = 0.01
    max_iter: int = struct.field(pytree_node=False, default=1000)
    num_searches: int = struct.field(pytree_node=False, default=9)
    initial_const: jax.typing.ArrayLike = 1e-3
    abort_early: bool = struct.field(pytree_node=False, default=True)
    norm = "l2"

    def start(self, keys: Keys, x: Images, y: Labels, clean_logits: Logits) -> CWL2State:
        del keys
        if self.max_iter < 1:
            raise ValueError(f"CWL2 needs at least one step; got max_iter={self.max_iter}.")
        zeros, far = jnp.zeros(x.shape[0], x.dtype), jnp.full(x.shape[0], jnp.inf, x.dtype)
        return CWL2State(**begin_nearest(x, clean_logits, y), search=jnp.zeros(x.shape[0], jnp.int32),
                         const=zeros + self.initial_const, below=zeros, above=far, succeeded=zeros > 0, loss=far,
                         descent=new_descent(x))

    def step(self, logits_fn: LogitsFn, keys: Keys, x: Images, y: Labels, state: CWL2State) -> CWL2State:
        del keys
        descent = state.descent
        image = from_tanh(descent.point)

        def classification(image: Images) -> tuple[Array, tuple[Values, Mask]]:
            logits = logits_fn(image)
            lead = self.confidence - margin(logits, y)
            term = state.const * jnp.maximum(lead, 0)
            return term.sum(), (term, misclassified(logits, y) & (lead <= 0))

        gradient, (term, hit) = jax.grad(classification, has_aux=True)(image)
        gradient = jnp.where(jnp.isfinite(gradient), gradient, 0)
        change = image - from_tanh(to_tanh(x))
        loss = term + jnp.sum(change**2, axis=tuple(range(1, x.ndim)))
        state = self.keep(x, image, hit, state)

        look = (descent.time % -(-self.max_iter // _LOOKS) == 0) & self.abort_early
        stalled = look & ~(loss <= _PROGRESS * state.loss)
        ended = stalled | (descent.time + 1 == self.max_iter)
        succeeded = state.succeeded | hit
        above = jnp.where(ended & succeeded, state.const, state.above)
        below = jnp.where(ended & ~succeeded, state.const, state.below)
        next_const = jnp.where(jnp.isinf(above), _RISE * state.const, (below + above) / 2)
        slope = (1 - jnp.tanh(descent.point) ** 2) / 2
        moved = descend(descent, (gradient + 2 * change) * slope, self.learning_rate)
        search = state.search + ended
        return state.replace(
            done=search == self.num_searches, search=search, const=jnp.where(ended, next_const, state.const),
            below=below, above=above, succeeded=succeeded & ~ended,
            loss=jnp.where(ended, jnp.inf, jnp.where(look, loss, state.loss)),
            descent=select(ended, new_descent(x), moved))
