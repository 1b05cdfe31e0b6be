"""Pictures of what networks do: images that an attack changes, and how alike the features stay."""
import base64
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict
from PIL import Image

from morel_jax import builders
from morel_jax.attacks.keys import fold_in_each
from morel_jax.attacks.types import Images, Keys, Labels, LogitsFn
from morel_jax.data.augment import to_float
from morel_jax.data.subset import stratified_rows
from morel_jax.evaluation.similarity import feature_similarity, mean_similarities
from morel_jax.evaluation.trained import as_logits_fn, load_variables
from morel_jax.files import DamagedFileError
from morel_jax.reporting.runs import ReportedRun
from morel_jax.training.validation import predicted

_SHOWN = 8
# Ends of the heat map's colours, at similarities -1, 0 and 1.
_COLOURS = ((33, 102, 172), (247, 247, 247), (178, 24, 43))


@jax.jit  # One program for all networks that are alike.
def _attack(attack: Any, logits_fn: LogitsFn, keys: Keys, x: Images, y: Labels) -> tuple[Images, Labels, Labels]:
    """Attacked images, and the predictions before and after."""
    x_adv = attack(logits_fn, keys, x, y)
    return x_adv, predicted(logits_fn(x)), predicted(logits_fn(x_adv))


@dataclasses.dataclass(frozen=True)
class Attacked:
    """A network and some images: ``x_adv`` and its predictions before and after, and the features' similarity."""
    run: int
    x_adv: Float[np.ndarray, "n h w c"]
    before: Int[np.ndarray, " n"]
    after: Int[np.ndarray, " n"]
    similarity: Float[np.ndarray, "n n"]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Networks that were attacked alike on the same images.

    Attributes:
        attack: in words.
        epsilon: largest change of a pixel.
        x: images in [0, 1], ordered by class.
        labels, class_names: theirs.
        networks: in the order of the runs.
    """
    attack: str
    epsilon: float
    x: Float[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"]
    class_names: Sequence[str]
    networks: list[Attacked]

    @property
    def shown(self) -> Int[np.ndarray, " k"]:
        """Rows of a few images, one a class, by class.

        Of a class one that every network knows unattacked, and of those one that is broken in some network, where there
        is one.
        """
        known = np.all([one.before == self.labels for one in self.networks], axis=0)
        broken = np.any([one.after != self.labels for one in self.networks], axis=0)
        order = np.lexsort((~broken, ~known))
        first = [order[self.labels[order] == label][0] for label in np.unique(self.labels)]
        return np.array(sorted(sorted(first, key=lambda row: not known[row])[:_SHOWN]))


def _words(section: ConfigDict) -> str:
    return f"PGD-{section.num_steps}, {section.norm}, epsilon {section.epsilon:.4g}"


def draw_galleries(runs: Sequence[ReportedRun], count: int) -> tuple[list[Gallery], list[str]]:
    """Attacks ``count`` test images of each run's ``best`` network as its validation does.

    Returns:
        (galleries, notes): one gallery for each data set and attack; a sentence for each run that has no network here.
    """
    galleries: dict[tuple, Gallery] = {}
    notes = []
    for number, run in enumerate(runs):
        if not run.config:  # A note of the run's says why.
            continue
        try:
            model, variables, config, dataset = load_variables(run.folder, "best")
        except (OSError, ValueError, DamagedFileError) as error:
            notes.append(f"No pictures of {run.name}: {str(error).partition(chr(10))[0]}")
            continue
        if dataset is None:
            notes.append(f"No pictures of {run.name}: it was trained on its caller's own data set.")
            continue
        index = stratified_rows(dataset.test.labels, min(count, len(dataset.test)))
        index = index[np.argsort(dataset.test.labels[index], kind="stable")]
        x, labels = to_float(dataset.test.images[index]), dataset.test.labels[index]
        logits_fn, attack = as_logits_fn(model, variables), builders.pgd(config.validation)
        keys = fold_in_each(jax.random.key(config.seed), index)
        x_adv, before, after = map(np.asarray, _attack(attack, logits_fn, keys, x, labels))
        images = np.asarray(x)
        network = Attacked(number, x_adv, before, after, feature_similarity(model, variables, x, x_adv))
        words = _words(config.validation)
        gallery = galleries.setdefault((words, images.shape, images.tobytes()), Gallery(
            words, float(np.abs(network.x_adv - images).max()) or 1.0, images, labels, dataset.class_names, []))
        gallery.networks.append(network)
    return list(galleries.values()), notes


def _uri(pixels: np.ndarray) -> str:
    content = io.BytesIO()
    Image.fromarray(pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]).save(content, format="png")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


def image_uri(image: Float[np.ndarray, "h w c"]) -> str:
    """An image in [0, 1], grey or of three colours, as a PNG in a data URI."""
    return _uri(np.round(255 * np.clip(image, 0, 1)).astype(np.uint8))


def perturbation_uri(change: Float[np.ndarray, "h w c"], epsilon: float) -> str:
    """A perturbation as :func:`image_uri`: grey where nothing changed, black and white at -epsilon and epsilon."""
    return image_uri(0.5 + change / (2 * epsilon))


def heat_map_uri(similarity: Float[np.ndarray, "n n"]) -> str:
    """Similarities in [-1, 1] as a PNG in a data URI, blue to white to red, the first row at the bottom."""
    places = np.clip(np.nan_to_num(similarity[::-1]), -1, 1)
    channels = [np.interp(places, (-1, 0, 1), ends) for ends in zip(*_COLOURS, strict=True)]
    return _uri(np.stack(channels, axis=-1).round().astype(np.uint8))


def similarities(network: Attacked, gallery: Gallery) -> dict[str, float]:
    """Means of the network's heat map; see :func:`~morel_jax.evaluation.similarity.mean_similarities`."""
    return mean_similarities(network.similarity, gallery.labels)
