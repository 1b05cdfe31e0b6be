"""Trained networks, read back from a run's folder."""
import dataclasses
import os
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from morel_jax import builders, checks
from morel_jax.attacks.types import Images, Logits
from morel_jax.files import local_path
from morel_jax.models.conditioned import fixed, is_conditioned
from morel_jax.models.precision import float32_logits
from morel_jax.training.beginning import read_network
from morel_jax.training.workdir import check_data, load_content


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network that a run saved.

    Attributes:
        model: Flax module of the plain classifier.
        variables: its ``params`` and ``batch_stats``.
        config: the run's ConfigDict.
        data: describes its data set: ``name``, ``image_shape``, ``num_classes``, ``class_names``, ``train_images`` and
            ``test_images``, the last two in images.
        is_custom_data: whether the data set was the caller's own.
    """
    model: Any
    variables: Any
    config: Any
    data: dict
    is_custom_data: bool = False

    @property
    def logits_fn(self) -> jax.tree_util.Partial:
        """The network as a function of images alone; see :func:`as_logits_fn`."""
        return as_logits_fn(self.model, self.variables)


def load_trained(workdir: str | os.PathLike, which: str = "best", model: Any = None,
                 preference: float | None = None) -> Trained:
    """The plain classifier that a run saved, without its data set.

    Args:
        workdir: the run's folder.
        which: ``best`` (highest robust accuracy in validation) or ``last``.
        model: the run's own network, if it was given one.
        preference: k_1 in [0, 1] at which a network of all preferences (``config.morel.conditioned``) is taken; None:
            the config's ``morel.judged_preference``.

    Returns:
        The network. The data set is read only if a folder of an earlier version does not describe it.

    Raises:
        FileNotFoundError: not a run's folder, or no such checkpoint in it.
        ValueError: an unknown ``which``, not the model that was trained, or a preference for a network without one.
    """
    network = read_network(workdir, which, model)
    model, variables, config = network.model, network.variables, network.config
    if is_conditioned(model):
        preference = config.morel.judged_preference if preference is None else checks.share("preference", preference)
        model, variables = fixed(model, variables, preference)
    elif preference is not None:
        raise ValueError(f"preference must not be given for the run in {workdir}, whose network has none; got "
                         f"{preference}.")
    return Trained(model, variables, config, network.data, is_custom_data="dataset" in network.own)


def load_variables(workdir: str | os.PathLike, which: str = "best", model: Any = None,
                   preference: float | None = None) -> tuple[Any, PyTree, ConfigDict, Any]:
    """:func:`load_trained` together with the data set.

    Returns:
        (model, variables, config, dataset): as in :class:`Trained`, and the Dataset; None for one of the caller's own.

    Raises:
        ValueError: the user's own files have changed: test images may have been trained on.
    """
    trained = load_trained(workdir, which, model, preference)
    dataset = None if trained.is_custom_data else builders.dataset(trained.config)
    if dataset is not None:
        check_data(local_path(workdir, "workdir"), load_content(workdir), dataset.sha256)
    return trained.model, trained.variables, trained.config, dataset


@dataclasses.dataclass(frozen=True)
class _Logits:
    """Equal for equal models, so that networks of one architecture share compiled programs."""
    model: Any

    def __call__(self, variables: PyTree, images: Images) -> Logits:
        return float32_logits(self.model, variables, images)


def as_logits_fn(model: nn.Module, variables: PyTree) -> jax.tree_util.Partial:
    """A Flax classifier as a function of images alone, in float32 and with running BatchNorm statistics.

    Returns:
        Images float32[n, h, w, c] in [0, 1] -> logits float32[n, classes]; also a pytree, with ``variables`` as leaves.
    """
    return jax.tree_util.Partial(_Logits(model), variables)


def load(workdir: str | os.PathLike, which: str = "best", model: Any = None,
         preference: float | None = None) -> tuple[jax.tree_util.Partial, ConfigDict]:
    """A trained network as a function, from :func:`as_logits_fn`, and the run's config.

    Arguments and errors as in :func:`load_trained`.
    """
    trained = load_trained(workdir, which, model, preference)
    return trained.logits_fn, trained.config
