import dataclasses
import json

from morel_jax.targets import DryRun
from morel_jax.targets.collectives import Collective
from morel_jax.targets.devices import CHIPS
from morel_jax.targets.kernels import Kernels
from morel_jax.targets.roofline import Estimate

FOUND = DryRun(
    title="resnet18, mart, cifar10 32x32x3, batch 128", target="h100:8", devices=(8, "NVIDIA H100 80GB HBM3"),
    mesh={"data": 8, "fsdp": 1}, classifier_parameters=11173962, embedding_parameters=0, flops=2 * 10**12,
    batch_size=128, kernels=Kernels(1555, 83, {"convolution": 518, "elementwise": 1037}), bytes_accessed=3 * 2**20,
    arguments=2 * 2**20, outputs=2**20, temporary=5 * 2**20, aliased=2**20,
    collectives=(Collective("all-reduce", 2**20, 8, 3), Collective("all-gather", 2**19, 8, 1),
                 Collective("all-reduce", 2**20, 8, 1)),
    compile_seconds=61.25, command_buffers={"count": 2, "operations_outside": 7}, chip=CHIPS["h100"],
    estimate=Estimate(0.002, 0.003, 0.0067, None, "a share"))


def test_the_text():
    assert FOUND.to_text() == """\
resnet18, mart, cifar10 32x32x3, batch 128
compiled for       8 NVIDIA H100 80GB HBM3 (mesh: data 8 x fsdp 1)
parameters         11,173,962 classifier
FLOPs              2e+12 per step, 1.562e+10 per image, in products and convolutions; a multiply-add is 2
operations         1,555 per step on each device, 83 per attack iteration: convolution 518, elementwise 1,037
command buffers    2, and outside of them 7 operations
bytes accessed     3.00 MiB per step and device, of every operation
peak memory        7.00 MiB per device: arguments 2.00 MiB, temporary 5.00 MiB, results in neither 0.00 MiB
device memory      fits in 81,007.94 MiB
all-gather         0.50 MiB a step in 1 exchanges of 8 devices
all-reduce         4.00 MiB a step in 4 exchanges of 8 devices
roofline estimate  5 ms a step (2 in convolutions and products), 25,600 images/s; 6.7 ms to launch it all one by one
it assumes         a share
compiled in        61.2 s"""


def test_json():
    found = json.loads(json.dumps(FOUND.to_dict()))
    assert found["kernels"] == {"step": 1555, "attack_iteration": 83,
                                "by_kind": {"convolution": 518, "elementwise": 1037}}
    assert (found["temporary_bytes"], found["peak_bytes"], found["fits"]) == (5 * 2**20, 7 * 2**20, True)
    assert found["collectives"] == [{"kind": "all-gather", "group_size": 8, "count": 1, "bytes": 2**19},
                                    {"kind": "all-reduce", "group_size": 8, "count": 4, "bytes": 4 * 2**20}]
    assert found["estimate"]["seconds"] == 0.005
    assert (found["flops"], found["compile_seconds"]) == (2 * 10**12, 61.2)


def test_what_does_not_fit_and_what_is_not_known():
    large = dataclasses.replace(FOUND, temporary=2**40)
    assert "DOES NOT FIT in 81,007.94 MiB" in large.to_text()
    assert large.to_dict()["fits"] is False
    unknown = dataclasses.replace(FOUND, chip=None, estimate=None, command_buffers=None, collectives=())
    assert (unknown.to_dict()["fits"], unknown.to_dict()["estimate"]) == (None, None)
    assert "collectives     none" in unknown.to_text()
