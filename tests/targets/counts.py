"""Counts of compiled programs: ``python -m tests.targets.counts NAME`` prints, ``--record [NAME ...]`` stores them.

They guard the programs without a clock. What is stored belongs to versions of JAX, and of libtpu where a TPU is
compiled for; see the test beside this file. Devices need not be there: the extra ``aot`` brings the compilers.
"""
import argparse
import dataclasses
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

STORED = Path(__file__).with_name("counts.json")


@dataclasses.dataclass(frozen=True)
class Program:
    """A training step to compile.

    Attributes:
        spec: of :func:`morel_jax.configuration.recipe`.
        target: as ``--target`` has it; None: a CPU.
        cpu_devices: fake ones.
        changes: fields of the config.
    """
    spec: str = "resnet18,morel_mart,paper"
    target: str | None = None
    cpu_devices: int = 1
    changes: dict = dataclasses.field(default_factory=dict)

    @property
    def versions(self):
        """Whom the counts belong to."""
        libtpu = f", libtpu {metadata.version('libtpu')}" if (self.target or "").startswith("tpu") else ""
        return f"jax {metadata.version('jax')}{libtpu}"


_SMALL = "resnet8,morel_mart,paper"
PROGRAMS = {
    "cpu": Program(_SMALL, changes={"batch_size": 16}),
    "cpu, 8 devices": Program(_SMALL, cpu_devices=8, changes={"batch_size": 16}),
    "h100": Program(target="h100", changes={"batch_size": 8, "cuda_graph": True}),
    "h100, bfloat16": Program(target="h100", changes={"batch_size": 128, "model.precision": "bfloat16"}),
    "h100:8": Program(target="h100:8", changes={"batch_size": 64}),
    "h100:8, fsdp": Program(target="h100:8", changes={"batch_size": 64, "mesh.fsdp": 8}),
    "tpu_v5e:2x2": Program(_SMALL, target="tpu_v5e:2x2", changes={"batch_size": 16}),
}


def measured(name):
    """{what: number} of a program, compiled in a process of its own: flags and devices of this one do not reach it."""
    program = PROGRAMS[name]
    environment = {key: value for key, value in os.environ.items()
                   if key not in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_COMPILATION_CACHE_DIR")}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(program.cpu_devices)}
    if program.target is None:  # Of two CPUs the same: vectors' length and number of cores change the program.
        environment |= {"XLA_FLAGS": "--xla_cpu_max_isa=AVX2", "NPROC": "2"}
    outcome = subprocess.run([sys.executable, "-m", "tests.targets.counts", name], env=environment, text=True,
                             capture_output=True, cwd=Path(__file__).parents[2])
    if outcome.returncode:
        raise RuntimeError(f"{name}: {outcome.stderr[-2000:]}")
    return json.loads(outcome.stdout.splitlines()[-1])


def _count(program):
    from morel_jax.configuration import recipe
    from morel_jax.targets import dry_run

    config = recipe(program.spec)
    for field, value in program.changes.items():
        section, _, last = field.rpartition(".")
        (config[section] if section else config)[last] = value
    found = dry_run(config, program.target).to_dict()
    counts = {"kernels.step": found["kernels"]["step"],
              "kernels.attack_iteration": found["kernels"]["attack_iteration"]}
    counts |= {f"kernels.by_kind.{kind}": number for kind, number in found["kernels"]["by_kind"].items()}
    counts["temporary, MiB"] = round(found["temporary_bytes"] / 2**20, 1)
    if found["command_buffers"] is not None:
        counts |= {f"command_buffers.{key}": number for key, number in found["command_buffers"].items()}
    for one in found["collectives"]:
        name = f"{one['kind']} of {one['group_size']}"
        counts |= {f"{name}, exchanges": one["count"], f"{name}, MiB": round(one["bytes"] / 2**20, 2)}
    return counts


def stored():
    """{versions: {name: counts}}."""
    return json.loads(STORED.read_text()) if STORED.exists() else {}


def difference(before, after):
    """What changed, one line each; empty where nothing did."""
    lines = []
    for what in dict.fromkeys([*before, *after]):
        old, new = before.get(what, 0), after.get(what, 0)
        if old != new:
            lines.append(f"  {what:36} {old:>10,} -> {new:>10,}  ({new - old:+,.10g})")
    return "\n".join(lines)


def record(names):
    """Compiles the programs and stores their counts, for the versions that are installed."""
    for name in names:
        found, versions = measured(name), PROGRAMS[name].versions
        everything = stored()
        before = everything.setdefault(versions, {}).get(name, {})
        print(f"{name} ({versions})\n{difference(before, found) or '  as stored'}", flush=True)
        everything[versions][name] = found
        everything = {key: dict(sorted(value.items())) for key, value in sorted(everything.items())}
        STORED.write_text(json.dumps(everything, indent=1) + "\n")


def main(argv):
    """Prints the counts of one program, or stores those of some."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true")
    parser.add_argument("names", nargs="*", choices=[*PROGRAMS, []], metavar="NAME", help=" | ".join(PROGRAMS))
    flags = parser.parse_args(argv)
    if flags.record:
        record(flags.names or PROGRAMS)
    else:
        (name,) = flags.names
        print(json.dumps(_count(PROGRAMS[name])))


if __name__ == "__main__":
    main(sys.argv[1:])
