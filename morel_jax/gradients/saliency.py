"""Which pixels a class score depends on: maps made of input gradients, with one value per pixel and channel."""
import jax
import jax.numpy as jnp
from jaxtyping import Array

from morel_jax.attacks.keys import example_keys, fold_in_rows
from morel_jax.attacks.types import KeyOrKeys, Labels, Logits, LogitsFn, Points, Values
from morel_jax.gradients.per_example import Loss, input_gradients
from morel_jax.losses.classification import label_mask, pick


def label_logit(logits: Logits, y: Labels) -> Values:
    """The default score: the label's logit."""
    return pick(logits, label_mask(logits, y))


def gradient_saliency(logits_fn: LogitsFn, x: Points, y: Labels, score: Loss = label_logit) -> Points:
    """The size of the score's gradient at each pixel.

    Args:
        logits_fn, x: as in :func:`input_gradients`.
        y: the classes to explain.

    Returns:
        At least 0, in the score's units per pixel unit.

    Reference: Simonyan et al., arXiv:1312.6034, without its maximum over channels.
    """
    return jnp.abs(input_gradients(logits_fn, x, y, score))


def gradient_times_input(logits_fn: LogitsFn, x: Points, y: Labels, score: Loss = label_logit) -> Points:
    """The score's gradient times the image: each pixel's share of a linear score, in the score's units.

    Arguments as in :func:`gradient_saliency`.

    Reference: Shrikumar et al., arXiv:1605.01713.
    """
    return x * input_gradients(logits_fn, x, y, score)


def smooth_grad(logits_fn: LogitsFn, key: KeyOrKeys, x: Points, y: Labels, noise_scale: float | Array = 0.15,
                num_samples: int = 50, score: Loss = label_logit) -> Points:
    """SmoothGrad: the score's gradient, averaged over noisy copies of the image.

    Args:
        logits_fn, x, y, score: as in :func:`gradient_saliency`.
        key: one key, or one per example.
        noise_scale: standard deviation of the normal noise in pixel units; may be traced. The authors advise a tenth to
            a fifth of the image's range.
        num_samples: copies, one after another; static.

    Returns:
        Signed, in the score's units per pixel unit.

    Reference: Smilkov et al., arXiv:1706.03825.
    """
    keys = example_keys(key, x.shape[0])

    def add(sample: Array, total: Points) -> Points:
        noise = jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(
            fold_in_rows(keys, jnp.full(keys.shape, sample)))
        return total + input_gradients(logits_fn, x + noise_scale * noise, y, score)

    return jax.lax.fori_loop(0, num_samples, add, jnp.zeros_like(x)) / num_samples


def integrated_gradients(logits_fn: LogitsFn, x: Points, y: Labels, baseline: float | Array = 0.0, num_steps: int = 50,
                         score: Loss = label_logit) -> Points:
    """Integrated gradients: what each pixel adds to the score along the straight line from a baseline to the image.

        IG = (x - b) * integral_0^1 grad score(b + t (x - b)) dt

    Args:
        logits_fn, x, y, score: as in :func:`gradient_saliency`.
        baseline: b, a number or an array that broadcasts to x; may be traced. 0 is a black image.
        num_steps: points of the midpoint rule for the integral; static.

    Returns:
        In the score's units. An example's entries add up to score(x) - score(b), up to the error of the midpoint rule.

    Reference: Sundararajan et al., arXiv:1703.01365, whose sum takes the right ends of the steps.
    """
    way = x - baseline

    def add(step: Array, total: Points) -> Points:
        return total + input_gradients(logits_fn, baseline + (step + 0.5) / num_steps * way, y, score)

    return way * jax.lax.fori_loop(0, num_steps, add, jnp.zeros_like(x)) / num_steps
