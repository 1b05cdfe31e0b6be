"""Robust accuracy at every radius, from the distances that minimum-norm attacks found."""
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from morel_jax.evaluation.ledger import Row


@dataclasses.dataclass(frozen=True)
class DistanceCurve:
    """Robust accuracy by radius, a step function.

    Attributes:
        radii: increasing; the first is 0, where the accuracy is that on clean images.
        accuracies: in [0, 1], each from its radius up to the next one.
        median: the radius that breaks half of the images that are classified correctly without an attack; infinite
            if half were broken at none.
    """
    radii: Float32[np.ndarray, " m"]
    accuracies: Float[np.ndarray, " m"]
    median: float

    @classmethod
    def of(cls, distances: Float32[np.ndarray, " n"], clean_right: Bool[np.ndarray, " n"]) -> "DistanceCurve":
        """The curve of examples by the :func:`nearest` images' distances; misclassified ones have distance 0."""
        radii = np.unique([0, *distances[np.isfinite(distances)]]).astype(np.float32)
        accuracies = 1 - np.searchsorted(np.sort(distances), radii, side="right") / len(distances)
        return cls(radii, accuracies, float(np.median(distances[clean_right])) if clean_right.any() else np.inf)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DistanceCurve":
        """What :meth:`to_dict` returned."""
        return cls(np.array(values["radii"], np.float32), np.array(values["accuracies"]),
                   np.inf if values["median"] is None else values["median"])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; ``median`` is None if it is infinite."""
        return {"median": self.median if np.isfinite(self.median) else None, "radii": self.radii.tolist(),
                "accuracies": self.accuracies.tolist()}

    def at(self, radius: float | Sequence[float]) -> Float[np.ndarray, "..."]:
        """Robust accuracy at a radius, or at several, in units of images in [0, 1].

        Raises:
            ValueError: a negative radius, or NaN.
        """
        wanted = np.asarray(radius, np.float32)
        if not np.all(wanted >= 0):
            raise ValueError(f"radius must be at least 0; got {radius}.")
        return self.accuracies[np.searchsorted(self.radii, wanted, side="right") - 1]


def nearest(rows: Mapping[int, Row], index: Int[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    """Distances of the adversarial images of the examples ``index``, infinite where an attack found none.

    Args:
        rows: {index: Row} of a minimum-norm attack.
    """
    own = (rows[one] for one in index)
    return np.array([np.inf if row.prediction == row.label or row.violation else row.distance for row in own],
                    np.float32)
