"""What an evaluation's attacks will need, from compiling them without data."""
import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from morel_jax import builders
from morel_jax.attacks.types import OwnLoss
from morel_jax.evaluation.evaluator import as_argument, block_width
from morel_jax.evaluation.pool import OneCall, lower_block
from morel_jax.evaluation.suite import build_suite, check_attacks, checked_threat
from morel_jax.evaluation.trained import as_logits_fn
from morel_jax.targets.devices import open_target
from morel_jax.targets.dry_run import count_parameters, measure
from morel_jax.targets.report import DryRun


@dataclasses.dataclass(frozen=True)
class EvaluationDryRun:
    """What the compiled programs of an evaluation are and need.

    Attributes:
        programs: {name of an attack: :class:`~morel_jax.targets.DryRun`}; a step moves all rows of a block by one.
    """
    programs: dict[str, DryRun]

    def to_dict(self) -> dict[str, Any]:
        """One dict of plain values, for JSON.

        ``programs`` has every attack's. Around it are the same keys for one step of each: sums, and of memory the
        most that any needs.
        """
        each = {name: found.to_dict() for name, found in self.programs.items()}
        whole = dict(next(iter(each.values())))
        by_kind: collections.Counter = collections.Counter()
        for one in each.values():
            by_kind.update(one["kernels"]["by_kind"])
        whole["title"] = f"an evaluation by {', '.join(each)}"
        whole["kernels"] = {"step": sum(by_kind.values()), "attack_iteration": None, "by_kind": dict(by_kind)}
        for key in ("temporary_bytes", "peak_bytes", "argument_bytes", "output_bytes", "aliased_bytes"):
            whole[key] = max(one[key] for one in each.values())
        for key in ("flops", "bytes_accessed", "compile_seconds"):
            whole[key] = sum(one[key] for one in each.values())
        if whole["fits"] is not None:
            whole["fits"] = all(one["fits"] for one in each.values())
        if whole["estimate"] is not None:
            whole["estimate"] = {"seconds": sum(one["estimate"]["seconds"] for one in each.values()),
                                 "assumptions": whole["estimate"]["assumptions"]}
        whole["command_buffers"] = None
        return whole | {"programs": each}

    def to_text(self) -> str:
        """Tables for people, one per attack."""
        return "\n\n".join(found.to_text() for found in self.programs.values())


def dry_run_evaluation(config: ConfigDict, attacks: Sequence[str], data: Mapping[str, Any] | None = None, *,
                       epsilon: float | None = None, norm: str | None = None,
                       target: str | None = None, loss: OwnLoss | None = None) -> EvaluationDryRun:
    """Compiles the programs that an evaluation spends its time in, without a data set and without writing anything.

    Each device works on blocks of its own, so that several need what one needs.

    Args:
        config: a run's ConfigDict.
        attacks: names; see :func:`morel_jax.evaluation.suite.build_suite`.
        data: dict with ``image_shape`` and ``num_classes``; None: those of the config's data set.
        epsilon: radius; None: ``config.validation.epsilon``. PGD's step is scaled with it.
        norm: ``linf`` or ``l2``; None: ``config.validation.norm``.
        target: what to compile for, see :func:`~morel_jax.targets.devices.open_target`; None: the devices at hand.
        loss: as of :func:`~morel_jax.evaluation.evaluate`.

    Returns:
        :class:`EvaluationDryRun`.

    Raises:
        ValueError: an unknown attack or target, one that does not fit norm or classes, or one crafted on a surrogate or
            for networks that answer at random.
        ImportError: the target's compiler is not installed.
    """
    devices = open_target(target) if target else jax.local_devices()
    data, section = data or builders.blank_dataset(config).record(), config.validation
    shape, epsilon = tuple(data["image_shape"]), section.epsilon if epsilon is None else epsilon
    threat = checked_threat(epsilon, section.step_size * epsilon / section.epsilon, norm or section.norm,
                            config.variant, shape, loss)
    _, suite = build_suite(attacks, threat, data["num_classes"])
    if crafted := [name for name, attack in suite.items() if attack.on_surrogate]:
        raise ValueError("--dry_run must be given attacks that are crafted on the network itself; got "
                         f"{', '.join(crafted)}.")
    check_attacks(suite, shape, data["num_classes"])
    model = builders.model(config, data["num_classes"])
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *shape), np.float32))
    logits_fn = as_argument(as_logits_fn(model, variables))
    width = block_width(logits_fn, shape, devices[0])

    def compiled(name: str, attack: Any) -> DryRun:
        flops: list[int] = []

        def lower() -> jax.stages.Lowered:
            lowered, counted = lower_block(attack, logits_fn, width, shape, devices[0])
            flops.append(counted)
            return lowered

        # An attack of one call depends on nothing that its loop changes: XLA takes it out of the loop.
        is_one_call = isinstance(attack, OneCall)
        found = measure(lower, devices[0], attack=is_one_call, whole=is_one_call)
        return DryRun(
            title=f"{name}: {config.model.name}, images {'x'.join(map(str, shape))}, one step of a block of {width}",
            target=target, devices=(len(devices), devices[0].device_kind), mesh={},
            classifier_parameters=count_parameters(variables["params"]), embedding_parameters=0, flops=flops[0],
            batch_size=width, **found)

    return EvaluationDryRun({name: compiled(name, one.attack) for name, one in suite.items()})
