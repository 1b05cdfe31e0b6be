import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from morel_jax import sharding
from morel_jax.sharding import AXES, Layout, make_mesh


def layout(data, fsdp, min_size=64):
    """A layout for devices that need not be there."""
    return Layout(AbstractMesh((data, fsdp), AXES), min_size)


@pytest.mark.parametrize(("shape", "spec"), [
    ((3, 3, 16, 32), P(None, None, None, "fsdp")),
    ((512, 10), P("fsdp", None)),
    ((16, 16), P(None, "fsdp")),  # Of equal axes the last.
    ((3, 3, 6, 32), P(None, None, None, "fsdp")),
    ((3, 3, 64, 30), P(None, None, "fsdp", None)),  # 4 does not divide 30.
    ((7, 9, 11), P()),  # Nothing to cut.
    ((1024,), P()),  # A vector.
    ((4, 8), P()),  # Small.
    ((), P()),
])
def test_what_fsdp_cuts(shape, spec):
    assert layout(2, 4).parameter(shape).spec == spec
    assert layout(8, 1).parameter(shape).spec == P()


def test_a_state_is_cut_leaf_by_leaf():
    state = {"kernel": jax.ShapeDtypeStruct((3, 3, 16, 32), np.float32),
             "bias": jax.ShapeDtypeStruct((32,), np.float32)}
    found = layout(2, 4).state(state)
    assert found["kernel"].spec == P(None, None, None, "fsdp")
    assert found["bias"].spec == P()
    abstract = layout(2, 4).abstract(state, found)
    assert abstract["kernel"].sharding == found["kernel"]
    assert abstract["kernel"].shape == (3, 3, 16, 32)


def test_a_batch_is_cut_over_all_devices():
    assert layout(2, 4).batch().spec == P(AXES)
    assert layout(2, 4).batch(axis=1).spec == P(None, AXES)


def test_a_batch_must_come_out_even():
    layout(2, 4).check_batch(16)
    with pytest.raises(ValueError, match=r"^config.batch_size must be a multiple of the 8 devices of the mesh "
                                         r"\(config.mesh: data 2 x fsdp 4\); got 12.$"):
        layout(2, 4).check_batch(12)


def test_all_devices_by_default():
    mesh = make_mesh()
    assert dict(mesh.shape) == {"data": len(jax.devices()), "fsdp": 1}
    assert all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types)


@pytest.mark.parametrize(("data", "fsdp", "message"), [
    (0, 3, r"config.mesh.fsdp must divide the number of devices, 8, where config.mesh.data is 0; got 3."),
    (5, 2, r"config.mesh asks for data \* fsdp = 5 \* 2 = 10 devices; there are 8."),
    (1, 0, r"config.mesh.fsdp must be 1 or more and config.mesh.data 0 or more; got 0 and 1."),
])
def test_meshes_that_cannot_be(data, fsdp, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make_mesh(data, fsdp, devices=[None] * 8)


def test_arrays_arrive_whole():
    one = Layout(make_mesh())
    array = np.arange(12).reshape(3, 4)
    put = sharding.put(array, one.replicated)
    np.testing.assert_array_equal(put, array)
    assert put.sharding == one.replicated


def test_one_process_agrees_with_itself():
    assert sharding.is_first_process()
    assert sharding.agree([0.1, 15]) == [0.1, 15.0]
