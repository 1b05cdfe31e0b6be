"""Records that identify networks and data sets, so that no result is attributed to the wrong one."""
import dataclasses
import hashlib
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from morel_jax.attacks.inputs import checked_loss
from morel_jax.attacks.types import Images, Labels, Logits, LogitsFn, OwnLoss, Values
from morel_jax.data.subset import stratified_order
from morel_jax.evaluation.evaluator import Evaluator, as_argument
from morel_jax.evaluation.randomised import one_draw

# A memory address does not identify an object.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
# Networks are compared on this many images, and again with noise of this size, which reveals rounding of pixels.
_PROBES, _NOISE = 4, 0.25
# Answers may differ by this fraction of the largest: two machines, or versions of XLA, round differently.
_ROUNDING = 1e-3


def fingerprint(tree: PyTree) -> str:
    """SHA-256 of a pytree of arrays: their paths, shapes, types and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{leaf.shape}{leaf.dtype}".encode() + leaf.tobytes())
    return digest.hexdigest()


def network_record(evaluator: Evaluator, prefix: str = "network") -> dict[str, Any]:
    """A network on a data set, in plain values that differ between networks and agree between machines.

    Returns:
        ``<prefix>``, the hash of its weights and of the printed function or module; ``<prefix>_answers``, a number for
        each of a few images, compared up to rounding; ``<prefix>_program_jax_<version>``, the hash of the traced
        computation and its gradient with their constants, comparable within one version of JAX.
    """
    if evaluator.draws:  # Votes would turn a rounding into another answer.
        evaluator = dataclasses.replace(evaluator, logits_fn=one_draw(evaluator.logits_fn), draws=0)
    return (network_digests(evaluator.logits_fn, evaluator.images.shape[1:], prefix)
            | {f"{prefix}_answers": _answers(evaluator)})


def network_digests(logits_fn: LogitsFn, image_shape: Sequence[int], prefix: str = "network") -> dict[str, str]:
    """The part of :func:`network_record` that needs the images' shape (h, w, c) alone."""
    logits_fn = as_argument(logits_fn)
    digest = hashlib.sha256(_ADDRESS.sub("", repr(logits_fn.func)).encode())
    digest.update(fingerprint(logits_fn).encode())
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return {prefix: digest.hexdigest(), f"{prefix}_program_jax_{jax.__version__}": _program(logits_fn, image)}


def loss_record(loss: OwnLoss, classes: int) -> dict[str, Any]:
    """An attack's own loss in plain values, as :func:`network_record` describes a network.

    Returns:
        ``loss``, its name; ``loss_answers``, values and gradients on a few logits, compared up to rounding;
        ``loss_program_jax_<version>``, the hash of the traced computation and its gradient with their constants.
    """
    logits = np.asarray(jax.random.normal(jax.random.key(0), (_PROBES, classes)))
    labels = np.arange(_PROBES, dtype=np.int32) % classes

    def with_gradient(logits: Logits, labels: Labels) -> tuple[Values, Logits]:
        values, pull_back = jax.vjp(lambda logits: checked_loss(loss, logits, labels), logits)
        return values, pull_back(jnp.ones_like(values))[0]

    values, gradient = map(np.asarray, with_gradient(jnp.asarray(logits), jnp.asarray(labels)))
    return {"loss": _ADDRESS.sub("", repr(loss)),
            "loss_answers": np.concatenate([values, gradient.ravel()]).astype(np.float64).tolist(),
            f"loss_program_jax_{jax.__version__}": _digest(jax.make_jaxpr(with_gradient)(logits, labels))}


def _answers(evaluator: Evaluator) -> list[float]:
    x = evaluator.x(stratified_order(evaluator.labels)[:_PROBES])
    noise = _NOISE * np.asarray(jax.random.uniform(jax.random.key(0), x.shape, jnp.float32, -1))
    x = np.concatenate([x, np.clip(x + noise, 0, 1)])
    logits = dataclasses.replace(evaluator, images=x).logits(np.arange(len(x))).astype(np.float64)
    # Any weights that tell the classes apart will do.
    return (logits @ np.cos(np.arange(1, logits.shape[1] + 1))).tolist()


def _program(logits_fn: jax.tree_util.Partial, image: jax.ShapeDtypeStruct) -> str:
    def with_gradient(logits_fn: LogitsFn, x: Images) -> tuple[Logits, PyTree]:
        logits, pull_back = jax.vjp(logits_fn, x)
        return logits, pull_back(logits)

    try:
        traced = jax.make_jaxpr(with_gradient)(logits_fn, image)
    except (TypeError, ValueError, NotImplementedError):  # A network without a gradient can be evaluated too.
        traced = jax.make_jaxpr(lambda logits_fn, x: logits_fn(x))(logits_fn, image)
    return _digest(traced)


def _digest(traced: Any) -> str:
    digest = hashlib.sha256(_ADDRESS.sub("", str(traced.jaxpr)).encode())
    digest.update(fingerprint(traced.consts).encode())
    return digest.hexdigest()


def agree(name: str, one: Any, other: Any) -> bool:
    """Whether two values of a record, or of other plain settings, are the same: answers up to rounding."""
    if not name.endswith("_answers") or not isinstance(one, list) or not isinstance(other, list):
        return one == other
    try:
        one, other = np.asarray(one, float), np.asarray(other, float)
    except (TypeError, ValueError):
        return False
    # Under noise a network may answer NaN or infinity, and then does so again.
    largest = np.max(np.abs(one), initial=0, where=np.isfinite(one))
    return one.shape == other.shape and np.allclose(one, other, 0, _ROUNDING * largest, equal_nan=True)
