"""Networks read back from a run's folder, and new runs that begin with one's weights."""
import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict

from morel_jax import builders, sharding
from morel_jax.files import local_path
from morel_jax.training.custom import CustomParts
from morel_jax.training.saved import load_classifier, load_record
from morel_jax.training.state import TrainState
from morel_jax.training.workdir import load_config, load_content


@dataclasses.dataclass(frozen=True)
class Network:
    """The plain classifier that a run saved, as it was trained.

    Attributes:
        model: Flax module.
        variables: its ``params`` and ``batch_stats``.
        config: the run's.
        data: as :class:`~morel_jax.evaluation.trained.Trained` has it.
        own: what the run was given of its caller's own, as :meth:`CustomParts.record` gives it.
    """
    model: Any
    variables: PyTree
    config: ConfigDict
    data: dict[str, Any]
    own: dict[str, Any]


def read_network(workdir: str | os.PathLike, which: str, model: Any = None) -> Network:
    """The network in a run's folder; arguments and errors as in :func:`morel_jax.evaluation.trained.load_trained`."""
    workdir = local_path(workdir, "workdir")
    config, content = load_config(workdir), load_content(workdir)
    own = content.get("own", {})
    custom = CustomParts(model=model, features=None if model is None else own.get("features"))
    model, given = custom.model, custom.record()
    if given.get("model") != own.get("model"):
        raise ValueError(f"model must be the one that the run in {workdir} was given, {own.get('model', 'none')}; "
                         f"got {given.get('model', 'none')}.")
    data = content.get("data") or own.get("dataset") or builders.dataset(config).record()
    if model is None:
        model = builders.model(config, data["num_classes"])
    image = jax.ShapeDtypeStruct((1, *data["image_shape"]), jnp.float32)
    # A model without BatchNorm is saved with no statistics.
    shapes = {"batch_stats": {}} | jax.eval_shape(model.init, jax.random.key(0), image)
    return Network(model, load_classifier(workdir, which, shapes), config, data, own)


@dataclasses.dataclass(frozen=True)
class Beginning:
    """A trained run whose network's weights a new run begins with.

    Attributes:
        workdir: the trained run's folder, absolute.
        which: its checkpoint, ``best`` or ``last``.
    """
    workdir: Path
    which: str = "best"

    def record(self) -> dict[str, str]:
        """What the new run's folder keeps of it: a dict for JSON."""
        return {"workdir": str(self.workdir), "which": self.which}

    def check(self, config: ConfigDict, model: Any = None) -> Network:
        """The network to begin with.

        Args:
            config: of the new run.
            model: the caller's own network, or None.

        Raises:
            FileNotFoundError: not a run's folder, or no such checkpoint in it.
            ValueError: the trained run has another architecture.
        """
        found = read_network(self.workdir, self.which, model)
        if model is None and found.config.model.name != config.model.name:
            raise ValueError(f"config.model.name must be that of the run to begin with, {found.config.model.name} in "
                             f"{self.workdir}; got {config.model.name}.")
        return found

    def apply(self, state: TrainState, config: ConfigDict, model: Any = None) -> tuple[TrainState, str]:
        """A new run's state with the weights and statistics of equal names and shapes.

        Args:
            state: of the new run, on its devices or, of a population's member, in NumPy arrays.
            config, model: as in :meth:`check`, whose errors it has.

        Returns:
            (state, text): the state; the line that says what was taken and what is fresh.

        Raises:
            ValueError: no weights fit.
        """
        found = self.check(config, model)
        there = {jax.tree_util.keystr(path): leaf
                 for path, leaf in jax.tree_util.tree_leaves_with_path(found.variables)}
        count, fresh = [0, 0], []  # Of parameters: taken, and not.

        def chosen(path: Any, leaf: Any) -> Any:
            name, old = jax.tree_util.keystr(path), there.get(jax.tree_util.keystr(path))
            fits = old is not None and old.shape == leaf.shape
            if name.startswith("['params']"):
                count[not fits] += leaf.size
            if old is None or not fits:
                fresh.append(jax.tree_util.keystr(path[1:], simple=True, separator="/"))
                return leaf
            new = np.asarray(old)
            return new if isinstance(leaf, np.ndarray) else sharding.put(new, leaf.sharding)

        variables = jax.tree_util.tree_map_with_path(
            chosen, {"params": state.params["classifier"], "batch_stats": state.batch_stats})
        if not count[0]:
            raise ValueError(f"the network to begin with must have weights of the new one's names and shapes; none of "
                             f"those in {self.workdir} has.")
        state = state.replace(params=state.params | {"classifier": variables["params"]},
                              batch_stats=variables["batch_stats"])
        if state.average is not None:  # A copy: the step donates its state.
            state = state.replace(average=jax.tree.map(lambda leaf: leaf.copy(), variables))
        fresh += ["the embedding space"] if "embedding" in state.params else []
        step = load_record(self.workdir, self.which)["step"]
        return state, (f"begins with {self.workdir} ({self.which}, step {step}): {count[0]} of {sum(count)} "
                       f"parameters; fresh: {', '.join([*fresh, 'the optimiser'])}")
