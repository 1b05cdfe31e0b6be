"""Carlini and Wagner's Linf attack (arXiv:1608.04644), in the form of the Adversarial Robustness Toolbox."""
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from morel_jax.attacks import linf
from morel_jax.attacks.descent import SMOOTHER, Descent, descend, from_tanh, like, new_descent
from morel_jax.attacks.inputs import misclassified
from morel_jax.attacks.iterative import AttackState, IterativeAttack, begin, select
from morel_jax.attacks.types import Images, Keys, Labels, Logits, LogitsFn, Mask, Values
from morel_jax.losses.classification import margin

# ART's constants: first and last tau, and the loss at which a descent stops.
_FIRST_TAU, _LAST_TAU = 1.0, 1 / 256
_CONVERGED = 0.001


class CWState(AttackState):
    """
    Attributes:
        tau: how far a pixel may move before it is penalised.
        const: weight of the classification term.
        distance: of the nearest adversarial image so far; 1 before there is one.
        nearer: whether a nearer one has been found since tau was last lowered.
        descent: the descent for this tau and const.
        first_gradient: at the point where all descents start, so that only the first has to evaluate it.
        projected: whether ``x_adv``, just projected into the ball, is evaluated next.
    """
    tau: Values
    const: Values
    distance: Values
    nearer: Mask
    descent: Descent
    first_gradient: Images
    projected: Mask


@struct.dataclass
class CWLinf(IterativeAttack[CWState]):
    """Untargeted CW-Linf: the smallest perturbation, by descents that penalise pixels that move farther than tau.

        l(x') = c max(z_y - max_{j != y} z_j + confidence, 0) + sum_p max(|x'_p - x_p| - tau, 0)

    Adam descends from the image, in tanh space so that pixels stay in [0, 1], until l < 0.001 or for ``max_iter``
    steps. The last point counts if it is misclassified and nearer than any before. This is repeated for each c, from
    ``initial_const`` on, multiplied by ``const_factor`` each time, while it is below ``largest_const``. Then tau,
    initially 1, becomes ``decrease_factor`` times itself or times the smallest distance so far, whichever is smaller.
    The attack ends when no c has given a nearer image, or when tau is 1 / 256 or less.

    Fields, defaults and arithmetic are those of ART's ``CarliniLInfMethod`` with clip values (0, 1), down to this
    detail: the gradient of the classification term is that of z_y - max_{j != y} z_j, neither cut off at zero nor
    multiplied by c as in the loss; so c only decides when a descent stops. There are two differences: images that are
    misclassified already stay as they are, where ART perturbs them too; and ``epsilon``.

    Attributes:
        confidence: by how much another class is to lead, in logits.
        learning_rate: Adam's.
        max_iter: Adam's steps in a descent at most; static.
        decrease_factor: of tau, in (0, 1).
        initial_const: first c, positive; nothing is tried unless it is below ``largest_const``.
        largest_const: bound on c, itself not tried.
        const_factor: of c; the first c is the only one unless it is above 1.
        epsilon: radius of the ball into which the final image is projected, in pixel units of images in [0, 1], as in
            the MOREL paper; an image that is then no longer misclassified counts as not found. None: no bound.

    Raises (when called):
        ValueError: a negative ``max_iter``.

    Reference: section VI.C of Carlini and Wagner, arXiv:1608.04644; ``CarliniLInfMethod`` of
    adversarial-robustness-toolbox 1.20.1.
    """
    confidence: jax.typing.ArrayLike = 0.0
    learning_rate: jax.typing.ArrayLike = 0.01
    max_iter: int = struct.field(pytree_node=False, default=10)
    decrease_factor: jax.typing.ArrayLike = 0.9
    initial_const: jax.typing.ArrayLike = 1e-5
    largest_const: jax.typing.ArrayLike = 20.0
    const_factor: jax.typing.ArrayLike = 2.0
    epsilon: jax.typing.ArrayLike | None = None

    def start(self, keys: Keys, x: Images, y: Labels, clean_logits: Logits) -> CWState:
        del keys
        if self.max_iter < 0:
            raise ValueError(f"max_iter must be at least 0; got {self.max_iter}.")
        fields = begin(x, clean_logits, y)
        fields["done"] |= ~jnp.less(self.initial_const, self.largest_const)
        ones, no = jnp.ones(x.shape[0], x.dtype), jnp.zeros(x.shape[0], bool)
        return CWState(**fields, tau=_FIRST_TAU * ones, const=jnp.multiply(self.initial_const, ones), distance=ones,
                       nearer=no, descent=new_descent(x), first_gradient=jnp.zeros_like(x), projected=no)

    def step(self, logits_fn: LogitsFn, keys: Keys, x: Images, y: Labels, state: CWState) -> CWState:
        del keys
        image = select(state.projected, state.x_adv, from_tanh(state.descent.point))

        def classification(image: Images) -> tuple[Array, tuple[Values, Mask]]:
            logits = logits_fn(image)
            lead = -margin(logits, y)
            return lead.sum(), (lead, misclassified(logits, y))

        gradient, (lead, wrong) = jax.grad(classification, has_aux=True)(image)
        moved = self._judge(x, image, lead, wrong, self._gradient(x, image, state, gradient), state)
        if self.epsilon is None:
            return moved
        return select(state.projected, self._settle(x, wrong, state), self._project(x, moved, self.epsilon))

    def _gradient(self, x: Images, image: Images, state: CWState, gradient: Images) -> Images:
        """The objective's gradient in tanh space, from the classification term's in the image."""
        change = image - x
        outside = jnp.abs(change) > like(state.tau, x)
        slope = (1 - jnp.tanh(state.descent.point) ** 2) / (2 * SMOOTHER)
        gradient = jnp.where(jnp.isfinite(gradient), gradient, 0)
        return (gradient + jnp.where(outside, jnp.sign(change), 0)) * slope

    def _judge(self, x: Images, image: Images, lead: Values, wrong: Mask, gradient: Images, state: CWState) -> CWState:
        """The state after the evaluation of a descent's point."""
        descent = state.descent
        excess = jnp.maximum(jnp.abs(image - x) - like(state.tau, x), 0)
        loss = state.const * jnp.maximum(lead + self.confidence, 0) + jnp.sum(excess, axis=tuple(range(1, x.ndim)))
        ended = (descent.time == self.max_iter) | ((descent.time > 0) & (loss < _CONVERGED))

        distance = linf.distance(image, x)
        better = ended & wrong & (distance < state.distance)
        x_adv, smallest = select(better, (image, distance), (state.x_adv, state.distance))
        nearer = state.nearer | better

        # A constant that does not rise would never end.
        const = state.const * self.const_factor
        no_const = ended & ~((const < self.largest_const) & (const > state.const))
        const = jnp.where(no_const, self.initial_const, jnp.where(ended, const, state.const))
        tau = jnp.where(no_const, self.decrease_factor * jnp.minimum(state.tau, smallest), state.tau)
        done = no_const & ~(nearer & (tau > _LAST_TAU))

        first_gradient = select(descent.time == 0, gradient, state.first_gradient)
        descent, gradient = select(ended, (new_descent(x), first_gradient), (descent, gradient))
        return state.replace(
            done=done, found=state.found | better, x_adv=x_adv, tau=tau, const=const, distance=smallest,
            nearer=nearer & ~no_const, descent=self._descend(descent, gradient), first_gradient=first_gradient,
        )

    def _descend(self, descent: Descent, gradient: Images) -> Descent:
        return descent if self.max_iter == 0 else descend(descent, gradient, self.learning_rate)

    def _project(self, x: Images, state: CWState, epsilon: jax.typing.ArrayLike) -> CWState:
        """Projects into the ball where the attack has just ended outside it; one more evaluation must follow."""
        projected = state.done & state.found & (state.distance > epsilon)
        x_adv = select(projected, linf.project(state.x_adv, x, epsilon), state.x_adv)
        return state.replace(done=state.done & ~projected, x_adv=x_adv, projected=projected)

    def _settle(self, x: Images, wrong: Mask, state: CWState) -> CWState:
        """The end, after the evaluation of the projected image."""
        return state.replace(done=jnp.ones_like(state.done), found=wrong, x_adv=select(wrong, state.x_adv, x))
