"""Training from a config to a folder: one run, or a sweep whose runs one program trains."""
import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from morel_jax import builders, sharding
from morel_jax.configuration import check
from morel_jax.data import Dataset
from morel_jax.files import local_path
from morel_jax.methods import METHODS
from morel_jax.methods.method import Loss
from morel_jax.models.wrapped import WrappedNetwork
from morel_jax.progress import TrainingProgress
from morel_jax.training.beginning import Beginning
from morel_jax.training.custom import NO_CUSTOM, CustomParts
from morel_jax.training.interruption import InterruptionRequest
from morel_jax.training.lock import hold
from morel_jax.training.members import Member, build_members
from morel_jax.training.placement import MODES, Placement, Sharded, Stacked, build_layout, check_compiled
from morel_jax.training.profile import Profile
from morel_jax.training.resumption import is_begun
from morel_jax.training.setup import setup
from morel_jax.training.state import TrainState
from morel_jax.training.trainer import Trainer
from morel_jax.training.workdir import describe_data, open_sweep, open_workdir


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a member's run ended.

    Attributes:
        member: whose it was.
        state: the final one, of NumPy arrays; None of a member that diverged, whose last good one is in its folder.
        history: as :func:`fit` returns it.
        diverged: None, or {"epoch", "step"} at which loss or parameters were not finite.
    """
    member: Member
    state: TrainState | None
    history: list[dict[str, Any]]
    diverged: dict[str, int] | None


def _train(members: Sequence[Member], placement: Placement, workdir: Path, custom: CustomParts, progress: bool | str,
           profile: int, is_sweep: bool, beginning: Beginning | None = None) -> Trainer:
    """The Trainer of these members, at the end of its work."""
    first, config = sharding.is_first_process(), members[0].config
    with contextlib.ExitStack() as stack:
        if first:
            stack.enter_context(hold(workdir))
        folders = [workdir]
        if is_sweep:
            open_sweep({member.name: member.changes for member in members}, workdir)
            folders = [workdir / member.name for member in members]
            for folder in folders:  # Against a run alone in a member's folder.
                stack.enter_context(hold(folder))
        bar = stack.enter_context(TrainingProgress(config, progress and first, len(members)))
        for member, folder in zip(members, folders, strict=True):
            open_workdir(member.config, folder, first, custom.record(), beginning.record() if beginning else None,
                         bar.say if member is members[0] else lambda text: None)
        request = stack.enter_context(InterruptionRequest())  # Watches until the checkpoints are written.
        traced = Profile(profile, workdir, bar)
        made = setup(config, custom)
        if first:
            for folder in folders:
                describe_data(folder, made.data)
        trainer = Trainer(made, members, placement, workdir, folders, request, bar, traced, stack,
                          beginning)
        trainer.run()
    return trainer


def _beginning(init_from: str | os.PathLike | None, which: str, folder: Path, config: ConfigDict,
               model: Any) -> Beginning | None:
    """What a run in ``folder`` begins with; checked before anything is written, unless it has begun."""
    if init_from is None:
        return None
    beginning = Beginning(local_path(init_from, "init_from").absolute(), which)
    if not is_begun(folder):
        beginning.check(config, model)
    return beginning


def fit(config: ConfigDict, workdir: str | os.PathLike, progress: bool | str = True, *, dataset: Dataset | None = None,
        model: Any = None, features: str | None = None, loss: Loss | None = None, attack: Any = None,
        validation_attack: Any = None, optimizer: optax.GradientTransformation | None = None, profile: int = 0,
        init_from: str | os.PathLike | None = None, init_which: str = "best",
        ) -> tuple[TrainState, list[dict[str, Any]]]:
    """Trains, or resumes the run in ``workdir``; bitwise the same whether or not it was interrupted.

    Runs on the devices that ``config.mesh`` asks for, those of all processes; every process must call it alike. Another
    number of devices, from the start or from a resumption on, changes nothing but rounding.

    Args:
        config: with every field of ``morel_jax.configuration.defaults()``.
        workdir: folder of the run; made if it is not there.
        progress: on standard error, True: a bar and one line per epoch; "epochs": the lines alone; False: nothing.
        dataset, model, features, loss, attack, validation_attack, optimizer: one's own, in place of what the config
            names; see :class:`~morel_jax.training.custom.CustomParts`. A resumption must be given the same.
        profile: how many steps to trace into ``profile`` in the workdir, for XProf or Perfetto; results do not change.
        init_from: folder of a trained run of the same architecture. A new run begins with its classifier's weights and
            BatchNorm statistics, where names and shapes are equal; the rest, such as the head for another number of
            classes, the embedding space and the optimiser, is fresh, and one line says what. A resumption must be
            given the same and reads its own checkpoint.
        init_which: the checkpoint of ``init_from``, ``best`` or ``last``.

    Returns:
        (state, history): the final TrainState, and one dict per epoch: ``epoch``, ``step``, ``learning_rate`` (of the
        epoch's first step), mean losses and training accuracies, ``clean_accuracy`` and ``robust_accuracy`` on the
        validation split where it was judged, ``seconds`` and ``images_per_second``.

    Raises:
        ValueError: a config that cannot work, or with which the workdir's run cannot be resumed, or a workdir that
            another run is using; or an ``init_from`` that does not fit.
        OSError: the workdir cannot be written, the disk is full, or no checkpoint there is whole. The last good
            checkpoint stands.
        Diverged: a loss or parameter stopped being finite.
        Interrupted: SIGINT or SIGTERM came, and the run was saved.
    """
    check(config, own_model=model)
    workdir = local_path(workdir, "workdir")
    custom = CustomParts(dataset, model, features, loss, attack, validation_attack, optimizer)
    builders.check_images(config, custom.dataset)
    alone = Member(name="", changes={}, config=config)
    beginning = _beginning(init_from, init_which, workdir, config, custom.model)
    trainer = _train([alone], Sharded(build_layout(config)), workdir, custom, progress, profile, is_sweep=False,
                     beginning=beginning)
    (run,) = trainer.runs
    return run.state, run.history


def placement_of(members: Sequence[Member], mode: str | None, custom: CustomParts = NO_CUSTOM,
                 devices: Sequence[jax.Device] | None = None) -> Placement:
    """Where a population's members lie; arguments and errors as in :func:`fit_population`.

    Args:
        devices: to take in place of this process's.
    """
    config = members[0].config
    check_compiled()
    if mode not in (None, *MODES):
        raise ValueError(f"mode must be one of {', '.join(MODES)}; got {mode!r}.")
    if jax.process_count() > 1:
        raise ValueError(f"a population must be trained by one process; got {jax.process_count()}.")
    swept = {name for member in members for name in member.changes}
    for part, is_own, unread in (("attack", custom.attack is not None, ("attack.",)),
                                 ("optimizer", custom.optimizer is not None,
                                  ("optimizer.momentum", "optimizer.weight_decay")),
                                 ("model", isinstance(custom.model, WrappedNetwork), ("batch_norm.momentum",))):
        if is_own and (found := [name for name in swept if name.startswith(unread)]):
            raise ValueError(f"config.{min(found)} must not be swept with a custom {part}, which does not read it.")
    if "morel.preference" in swept and METHODS[config.method].is_conditioned(config):
        raise ValueError("config.morel.preference must not be swept with morel.conditioned, whose networks take every "
                         "preference; sweep morel.preference_range.")
    if len(members) == 1:
        return Sharded(build_layout(config, devices))
    if config.mesh.fsdp != 1:
        raise ValueError("config.mesh.fsdp must be 1 in a population, whose members lie whole on a device; got "
                         f"{config.mesh.fsdp}.")
    return Stacked.over_local_devices(len(members), mode, devices)


def fit_population(config: ConfigDict, settings: Sequence[dict[str, Any]], workdir: str | os.PathLike,
                   progress: bool | str = True, mode: str | None = None, *, dataset: Dataset | None = None,
                   model: Any = None, features: str | None = None, loss: Loss | None = None, attack: Any = None,
                   validation_attack: Any = None, optimizer: optax.GradientTransformation | None = None,
                   profile: int = 0, init_from: str | os.PathLike | None = None,
                   init_which: str = "best") -> list[Outcome]:
    """Trains a member for each of ``settings``, or resumes the sweep in ``workdir``.

    One program trains all of them, cut over this process's devices (``config.mesh.data`` is not looked at); other
    values, or another number of members that gives a device as many, are the same program. Each member is the run that
    :func:`fit` makes of its config alone on one device: bitwise on one device and ``sequential``, and but for rounding
    otherwise. A single member is that run itself, on the devices that ``config.mesh`` asks for. A member that diverges
    takes no more steps, and the others continue.

    Args:
        config: the base, with every field of ``morel_jax.configuration.defaults()``.
        settings: list of {"section.field": value}; see :func:`~morel_jax.training.members.build_members`.
        workdir: folder of the sweep; each member's run is in a folder of its name there, like one that ``fit`` made.
        progress: on standard error, True: a bar and one line per epoch; "epochs": the lines alone; False: nothing.
        mode: how the members of one device are worked on, ``sequential`` or ``vmapped``; None: the first on a CPU, else
            the second.
        dataset, model, features, loss, attack, validation_attack, optimizer: one's own, for every member, as in
            :func:`fit`.
        profile: as in :func:`fit`.
        init_from, init_which: as in :func:`fit`; every member begins with the weights of this one run.

    Returns:
        In the order of ``settings``. In a member's history ``seconds`` and ``images_per_second`` are its own images in
        the time of the whole population.

    Raises:
        ValueError: a config, setting or mode that cannot work, not the ones that the workdir's sweep has, a workdir
            that another run is using, or an ``init_from`` that does not fit.
        Interrupted: SIGINT or SIGTERM came, and the members were saved.
    """
    custom = CustomParts(dataset, model, features, loss, attack, validation_attack, optimizer)
    members = build_members(config, settings, own_model=model)
    placement = placement_of(members, mode, custom)
    builders.check_images(config, custom.dataset)
    workdir = local_path(workdir, "workdir")
    beginning = _beginning(init_from, init_which, workdir / members[0].name, config, custom.model)
    trainer = _train(members, placement, workdir, custom, progress, profile, is_sweep=True, beginning=beginning)
    return [Outcome(member, None if diverged else jax.device_get(run.state), run.history, diverged)
            for member, run, diverged in zip(members, trainer.runs, trainer.diverged, strict=True)]
