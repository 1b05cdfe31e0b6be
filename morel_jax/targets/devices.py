"""Devices to compile for that need not be there: facts of chips, and XLA's descriptions made from them."""
import contextlib
import dataclasses
import importlib.util
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import topologies

_NVIDIA_H100 = "https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet"
_NVIDIA_A100 = ("https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/"
                "nvidia-a100-datasheet-nvidia-us-2188504-web.pdf")
_GOOGLE = "https://cloud.google.com/tpu/docs/"


@dataclasses.dataclass(frozen=True)
class Chip:
    """What its maker publishes of a chip; peaks are of dense products.

    Attributes:
        kind: the name by which JAX knows it.
        platform: ``cuda`` or ``tpu``.
        peaks: FLOP/s by arithmetic: ``bfloat16``; of a GPU also ``tf32`` and ``float32``.
        bandwidth: of its memory, bytes/s.
        memory: bytes.
        source: page with these numbers.
        xla: how XLA is told which chip it is: fields of its description of a GPU, or a TPU's name and core setting.
    """
    kind: str
    platform: str
    peaks: Mapping[str, float]
    bandwidth: float
    memory: int
    source: str
    xla: Mapping[str, Any]


_H100 = dict(core_count=132, fpus_per_core=128, clock_rate_ghz=1.98, shared_memory_per_core=233472,
             shared_memory_per_block_optin=232448, l2_cache_size=52428800, active_links=18,
             capability="major: 9 feature_extension: ACCELERATED_FEATURES", version="9.0a")
_A100 = dict(core_count=108, fpus_per_core=64, clock_rate_ghz=1.41, shared_memory_per_core=167936,
             shared_memory_per_block_optin=166912, l2_cache_size=41943040, active_links=12,
             capability="major: 8", version="8.0")
_A100_PEAKS = {"bfloat16": 312e12, "tf32": 156e12, "float32": 19.5e12}

CHIPS = {
    # A driver keeps some of a card's 80 GB; this is what it leaves, and the bandwidth that it reports.
    "h100": Chip("NVIDIA H100 80GB HBM3", "cuda", {"bfloat16": 989e12, "tf32": 495e12, "float32": 67e12},
                 3_352_320_000_000, 84_942_979_072, _NVIDIA_H100, _H100),
    "a100": Chip("NVIDIA A100-SXM4-80GB", "cuda", _A100_PEAKS, 2_039_000_000_000, 80 * 10**9, _NVIDIA_A100, _A100),
    "a100_40": Chip("NVIDIA A100-SXM4-40GB", "cuda", _A100_PEAKS, 1_555_000_000_000, 40 * 10**9, _NVIDIA_A100, _A100),
    # Both cores of a chip are one device, as a program on the machine itself sees them.
    "tpu_v4": Chip("TPU v4", "tpu", {"bfloat16": 275e12}, 1.2e12, 32 * 2**30, _GOOGLE + "v4",
                   dict(name="v4", cores="megacore", smallest="2x2x1")),
    "tpu_v5e": Chip("TPU v5 lite", "tpu", {"bfloat16": 197e12}, 819e9, 16 * 10**9, _GOOGLE + "v5e",
                    dict(name="v5e", cores="default", smallest="1x1")),
    "tpu_v5p": Chip("TPU v5", "tpu", {"bfloat16": 459e12}, 2.765e12, 95 * 10**9, _GOOGLE + "v5p",
                    dict(name="v5p", cores="megacore", smallest="2x2x1")),
    "tpu_v6e": Chip("TPU v6 lite", "tpu", {"bfloat16": 918e12}, 1.638e12, 32 * 10**9, _GOOGLE + "v6e",
                    dict(name="v6e", cores="default", smallest="1x1")),
}

# XLA's description of a GPU, protocol buffer text. What is not a field here is the same for the chips above.
_GPU = """
gpu_device_info {{
  name: "{kind}"
  device_vendor: "NVIDIA Corporation"
  platform_version: "Compute Capability {version}"
  cuda_compute_capability {{ {capability} }}
  core_count: {core_count}
  fpus_per_core: {fpus_per_core}
  clock_rate_ghz: {clock_rate_ghz}
  memory_bandwidth: {bandwidth}
  device_memory_size: {memory}
  l2_cache_size: {l2_cache_size}
  shared_memory_per_core: {shared_memory_per_core}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {shared_memory_per_block_optin}
  device_interconnect_info {{ active_links: {active_links} }}
  pcie_bandwidth: 34359738368
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  device_address_bits: 64
  ecc_enabled: true
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
device_description_str: "{kind}"
runtime_version {{ major: 13 }}
"""

# What libtpu else asks a TPU's machine for, at length and aloud.
_NO_TPU_HERE = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_WORKER_HOSTNAMES": "localhost",
                "TPU_WORKER_ID": "0", "TPU_ACCELERATOR_TYPE": "v5litepod-1"}


def chip_of(device: jax.Device) -> Chip | None:
    """The :class:`Chip` of a JAX device, or None for one that is not in ``CHIPS``."""
    return next((chip for chip in CHIPS.values() if chip.kind == device.device_kind), None)


def _grid(target: str) -> tuple[str, list[int]]:
    """(name in ``CHIPS``, numbers of the grid) of a target's text."""
    name, colon, text = target.partition(":")
    if name not in CHIPS or (colon and not re.fullmatch(r"[1-9]\d{0,3}(x[1-9]\d{0,3}){0,2}", text)):
        raise ValueError(f"--target must be one of {', '.join(CHIPS)}, and after a colon GPUs, HOSTSxGPUS or the grid "
                         f"of a TPU's chips, such as h100:8, h100:2x8 or tpu_v5e:4x4; got {target!r:.100}.")
    return name, [int(number) for number in text.split("x")] if text else []


def _check_installed(platform: str) -> None:
    modules = ["libtpu"] if platform == "tpu" else ["jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12"]
    for module in modules:
        with contextlib.suppress(ModuleNotFoundError):
            if importlib.util.find_spec(module):
                return
    raise ImportError(f"--target needs XLA's compiler for {platform}, which is not installed: "
                      "pip install 'morel_jax[aot]'")


def open_target(target: str) -> list[jax.Device]:
    """The devices of a target, which need not be there.

    To come before anything asks JAX for devices. JAX has only the CPU in this process then, and no persistent cache.

    Args:
        target: name in ``CHIPS``, and after a colon how many: ``h100``, ``h100:8``, ``h100:2x8`` (two hosts with eight
            GPUs each), ``tpu_v5e:4x4`` (the grid of chips).

    Returns:
        Devices to make a mesh of and compile for; nothing can be run on them.

    Raises:
        ValueError: no such target, or not a grid that the chip comes in.
        ImportError: the compiler is not installed.
    """
    name, grid = _grid(target)
    chip = CHIPS[name]
    _check_installed(chip.platform)
    # JAX is to look for no accelerator of its own, and cannot read back from its cache what is for an absent one.
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    if chip.platform == "cuda":
        if len(grid) > 2:
            raise ValueError(f"--target must give GPUs or HOSTSxGPUS after {name}:; got {target!r}.")
        hosts, gpus = [1, 1, *grid][-2:]
        described = _GPU.format(kind=chip.kind, bandwidth=chip.bandwidth, memory=chip.memory, **chip.xla)
        return topologies.get_topology_desc(platform="cuda", target_config=described,
                                            topology=f"1x{hosts}x{gpus}").devices
    for variable, value in _NO_TPU_HERE.items():
        os.environ.setdefault(variable, value)
    shape = "x".join(map(str, grid)) or chip.xla["smallest"]
    # Machines have four chips unless one is all there is.
    alone = {"chips_per_host_bounds": (1, 1, 1)} if shape == "1x1" else {}
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=f"{chip.xla['name']}:{shape}",
                                            chip_config_name=chip.xla["cores"], **alone).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"--target must give a grid that {name} comes in, such as {chip.xla['smallest']}; got "
                         f"{target!r}: {str(error).partition(': ')[2]}") from None
