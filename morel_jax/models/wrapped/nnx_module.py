"""An NNX module with the name of its head."""
import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PyTree

from morel_jax.models.outputs import Images, Outputs
from morel_jax.models.wrapped.network import DRAWS, Variables, WrappedNetwork, call_mode, described, outputs_of


class _Values:
    """Arrays that are equal where they are the same objects: what a module holds has no other hash."""

    def __init__(self, leaves: list):
        self.leaves = leaves

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Values) and list(map(id, self.leaves)) == list(map(id, other.leaves))

    def __hash__(self) -> int:
        return hash(tuple(map(id, self.leaves)))


def _split(module: nnx.Module) -> tuple[Any, Any, Any, Any]:
    """(structure, states of random numbers, parameters, all else)."""
    parts: Any = nnx.split(module, nnx.RngState, nnx.Param, ...)
    return parts


def _named(state: nnx.State) -> dict[str, Array]:
    """{"block.0.kernel": array}: names that a checkpoint can have, whatever the module's own containers are."""
    return {".".join(str(getattr(entry, "key", getattr(entry, "idx", ""))) for entry in path[:-1]): leaf
            for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}


def _like(state: nnx.State, named: dict[str, Array]) -> nnx.State:
    """The inverse of :func:`_named`."""
    return jax.tree.unflatten(jax.tree.structure(state), [named[name] for name in _named(state)])


@dataclasses.dataclass(frozen=True)
class NNXNetwork(WrappedNetwork):
    """See :func:`morel_jax.models.wrap`; made by :meth:`of_module` or :meth:`of_function`.

    Attributes:
        structure: the module's graph.
        shapes: (random numbers, parameters, all else) without values.
        values: the arrays that a new network has, or None.
        function: nnx.Rngs -> module of a new network, where there are no values.
        features: see :func:`morel_jax.models.wrap`.
        layers: paths of the module's layers.
    """
    structure: Any = dataclasses.field(repr=False)
    shapes: tuple = dataclasses.field(repr=False, compare=False)
    values: _Values | None = dataclasses.field(repr=False)
    function: Callable | None
    features: str | None
    layers: tuple[str, ...] = dataclasses.field(repr=False)
    description: str

    @classmethod
    def of_module(cls, module: nnx.Module, features: str | None) -> "NNXNetwork":
        """With the module's values, as they are now."""
        return cls._of(module, features, values=_Values(jax.tree.leaves(_split(module)[1:])), function=None)

    @classmethod
    def of_function(cls, function: Callable, features: str | None) -> "NNXNetwork":
        """With values that depend on the key."""
        rule = "model must be a Flax module, or a function of nnx.Rngs that makes an NNX module"
        try:
            module = nnx.eval_shape(lambda: function(nnx.Rngs(0)))
        except Exception as problem:  # The caller's own, whatever it is.
            raise ValueError(f"{rule}; {function!r:.100} raised {type(problem).__name__}: {problem}") from problem
        if not isinstance(module, nnx.Module):
            raise ValueError(f"{rule}; {function!r:.100} makes none.")
        return cls._of(module, features, values=None, function=function)

    @classmethod
    def _of(cls, module: nnx.Module, features: str | None, **options: Any) -> "NNXNetwork":
        structure, *states = _split(module)
        shapes = jax.eval_shape(lambda: tuple(states)) if options["values"] else tuple(states)
        layers = tuple(".".join(map(str, path)) for path, _ in nnx.iter_modules(module) if path)
        if features is not None and features not in layers:
            raise ValueError(f"features must name a layer of the network; got {features!r}. Its layers: "
                             f"{', '.join(layers)}.")
        return cls(structure, shapes, features=features, layers=layers,
                   description=f"{type(module).__qualname__}, {described(shapes[1])}", **options)

    def init(self, key: Array, images: Images) -> dict[str, PyTree]:
        """See :class:`WrappedNetwork`."""
        del images
        if self.function is not None:
            _, _, params, rest = _split(self.function(nnx.Rngs(key)))
        else:
            assert self.values is not None  # One of the two is there.
            _, params, rest = jax.tree.unflatten(jax.tree.structure(self.shapes), self.values.leaves)
        return {"params": _named(params), "batch_stats": _named(rest)}

    def training_pass(self, variables: Variables, images: Images, key: Array) -> tuple[Outputs, PyTree]:
        """See :class:`WrappedNetwork`."""
        outputs, module = self._call(variables, images, True, key)
        return outputs, _named(_split(module)[3])

    def apply(self, variables: Variables, images: Images) -> Outputs:
        """See :class:`WrappedNetwork`."""
        return self._call(variables, images, False, jax.random.key(0))[0]

    def _call(self, variables: Variables, images: Images, train: bool, key: Array) -> tuple[Outputs, nnx.Module]:
        rngs, params, rest = self.shapes
        leaves, structure = jax.tree.flatten(rngs)
        # Each stream its own key, each counted from 0 again: a step draws what its key says.
        drawn = [jax.random.fold_in(key, place) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
                 else jnp.zeros(leaf.shape, leaf.dtype) for place, leaf in enumerate(leaves)]
        module = nnx.merge(self.structure, jax.tree.unflatten(structure, drawn), _like(params, variables["params"]),
                           _like(rest, variables["batch_stats"]))
        (module.train if train else module.eval)()
        with _recorded(module, self.features) as seen:
            result = module(images, **call_mode(module, train))
        after = jax.tree.leaves(_split(module)[1])
        if not train and any(new is not old for new, old in zip(after, drawn, strict=True)):
            # With a key that is always the same, a network that answers at random would be judged as another one.
            raise ValueError(f"{DRAWS}; {self.description} draws some.")
        return outputs_of(result, seen, self.features, list(self.layers)), module


_SEEN: contextvars.ContextVar[list] = contextvars.ContextVar("inputs of the layer that is recorded")


@functools.cache
def _recording(layer: type) -> type:
    """A class like ``layer`` whose call notes what it is given."""
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        _SEEN.get().append((*args, *kwargs.values())[0])
        return layer.__call__(self, *args, **kwargs)

    return type(layer.__name__, (layer,), {"__call__": call})


@contextlib.contextmanager
def _recorded(module: nnx.Module, path: str | None) -> Iterator[list[Float[Array, "n ..."]]]:
    """The list of what the layer at ``path`` is given inside of the ``with``."""
    seen: list = []
    layer = next((one for place, one in nnx.iter_modules(module) if ".".join(map(str, place)) == path and place), None)
    if layer is None:
        yield seen
        return
    token, original = _SEEN.set(seen), type(layer)
    object.__setattr__(layer, "__class__", _recording(original))
    try:
        yield seen
    finally:
        object.__setattr__(layer, "__class__", original)
        _SEEN.reset(token)
