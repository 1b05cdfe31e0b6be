"""Many runs as one program: their arrays stacked along a first axis, which is cut over the devices.

Each device has as many slots, and no device waits for another within a program: there is no communication.
"""
import dataclasses
import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from morel_jax.metrics import build_correct
from morel_jax.training.step import compiler_options, train_epoch

AXIS = "member"
# How the members of one device are worked on: one after another, or each operation on all of them at once.
MODES = ("sequential", "vmapped")


def default_mode():
    """Of ``MODES``, the one supposed to be faster on this backend; benchmarks/population.py compares them."""
    return "sequential" if jax.default_backend() == "cpu" else "vmapped"


@dataclasses.dataclass(frozen=True)
class Stacking:
    """Which member lies where.

    Attributes:
        mesh: one axis, ``member``, over this process's devices.
        members: how many there are; each device has as many slots, the last ones filled with the last member.
    """
    mesh: Mesh
    members: int

    @classmethod
    def over_local_devices(cls, members):
        """The stacking of ``members`` runs over all devices of this process."""
        devices = jax.local_devices()
        return cls(jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices), members)

    @property
    def slots(self):
        """Members and filling."""
        return self.mesh.size * math.ceil(self.members / self.mesh.size)

    def _filled(self, of_members):
        return [*of_members, *[of_members[-1]] * (self.slots - self.members)]

    def stack(self, trees):
        """One tree of arrays[slots, ...] from a list with a tree of numpy arrays or numbers for each member."""
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *self._filled(trees))
        return jax.device_put(stacked, NamedSharding(self.mesh, P(AXIS)))

    def stack_keys(self, keys):
        """The same for a list of random keys."""
        return jax.device_put(jax.numpy.stack(self._filled(keys)), NamedSharding(self.mesh, P(AXIS)))

    def everywhere(self, array):
        """An array that all members read, on every device."""
        return jax.device_put(array, NamedSharding(self.mesh, P()))

    def unstack(self, tree):
        """What :meth:`stack` was given, as numpy arrays of their own: the programs donate the devices' buffers."""
        whole = jax.tree.map(np.array, tree)
        return [jax.tree.map(lambda leaf, member=member: leaf[member, ...], whole) for member in range(self.members)]


def _cut_over_devices(function, mesh, in_specs, donate=(), options=None):
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), in_specs, is_leaf=lambda spec: isinstance(spec, P))
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=P(AXIS)), in_shardings=shardings,
                   out_shardings=NamedSharding(mesh, P(AXIS)), donate_argnums=donate, compiler_options=options)


def compile_train_members(parts, mesh, mode):
    """:func:`~morel_jax.training.step.train_epoch` of all members as one jitted function.

    Args:
        parts: Parts of every member.
        mesh: of a :class:`Stacking`.
        mode: one of ``MODES``.

    Returns:
        (state, totals, hparams, images, labels, order, key, start, stop) -> (state, totals), as ``train_epoch`` has
        them, with a first axis of slots for all but ``images``, ``labels`` and ``start``; ``order`` is
        int32[slots, steps, n]. A member whose ``stop`` is ``start`` keeps its state. State and totals are donated.
    """
    def train(state, totals, hparams, images, labels, order, key, start, stop):
        def one(state, totals, hparams, order, key, stop):
            return train_epoch(state, totals, hparams, images, labels, order, order, key, start, stop, parts=parts)

        def body(slot, trained):
            given = jax.tree.map(lambda leaf: leaf[slot], (*trained, hparams, order, key, stop))
            return jax.tree.map(lambda all_slots, new: all_slots.at[slot].set(new), trained, one(*given))

        if mode == "vmapped":
            return jax.vmap(one)(state, totals, hparams, order, key, stop)
        return jax.lax.fori_loop(0, len(stop), body, (state, totals))

    own, shared = P(AXIS), P()
    return _cut_over_devices(train, mesh, (own, own, own, shared, shared, own, own, shared, own), donate=(0, 1),
                             options=compiler_options(parts))


def compile_correct_members(model, mesh, mode):
    """:func:`~morel_jax.metrics.build_correct` of all members as one jitted function.

    Returns:
        (variables, attack, images, labels, index, key) -> (clean bool[slots, n], robust bool[slots, n]), where
        ``variables`` and ``key`` have a first axis of slots.
    """
    correct = build_correct(model)

    def judge(variables, attack, images, labels, index, key):
        def one(member):
            own_variables, own_key = member
            return correct(own_variables, attack, images, labels, index, own_key)

        return jax.vmap(one)((variables, key)) if mode == "vmapped" else jax.lax.map(one, (variables, key))

    own, shared = P(AXIS), P()
    return _cut_over_devices(judge, mesh, (own, shared, shared, shared, shared, own))
