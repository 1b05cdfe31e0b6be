"""How alike a network's features of attacked and of natural images are."""
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, PyTree

from morel_jax.attacks.types import Images


def feature_similarity(model: Any, variables: PyTree, x: Images | Float[np.ndarray, "n h w c"],
                       x_adv: Images | Float[np.ndarray, "n h w c"]) -> Float32[np.ndarray, "n n"]:
    """Cosine similarities of features, one row per attacked image and one column per natural one."""
    def features(images: Any) -> Float[Array, "n d"]:
        z = model.apply(variables, images).features
        return z / jnp.linalg.norm(z, axis=-1, keepdims=True)

    return np.asarray(features(x_adv) @ features(x).T)


def mean_similarities(similarity: Float[np.ndarray, "n n"], labels: Int[np.ndarray, " n"]) -> dict[str, float]:
    """Means of what :func:`feature_similarity` returned, of an attacked image with natural ones.

    Returns:
        ``own``: with the image itself; ``same_class``: with others of its class; ``other_class``: with the rest. NaN
        where there is no such pair.
    """
    alike = labels[:, None] == labels
    parts = {"own": np.diag(similarity), "same_class": similarity[alike & ~np.eye(len(labels), dtype=bool)],
             "other_class": similarity[~alike]}
    return {name: float(part.mean()) if part.size else float("nan") for name, part in parts.items()}
