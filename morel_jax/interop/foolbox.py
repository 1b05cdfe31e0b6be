"""Our networks as Foolbox's models. Importing this imports Foolbox (the extra ``foolbox``)."""
import jax

from morel_jax import checks
from morel_jax.attacks.types import Images, Logits, LogitsFn

with checks.needing_extra("foolbox", "morel_jax.interop.foolbox"):
    import foolbox


@jax.jit
def _logits(logits_fn: LogitsFn, images: Images) -> Logits:
    return logits_fn(images)


def model(logits_fn: LogitsFn) -> foolbox.models.JAXModel:
    """A network, best as :func:`morel_jax.evaluation.load` returns it, for Foolbox's attacks, with bounds (0, 1).

    Foolbox recognises a framework by its arrays: give its attacks images and labels of ``jax.numpy``, not of numpy.
    """
    if not isinstance(logits_fn, jax.tree_util.Partial):
        logits_fn = jax.tree_util.Partial(logits_fn)
    return foolbox.models.JAXModel(jax.tree_util.Partial(_logits, logits_fn), bounds=(0, 1))
