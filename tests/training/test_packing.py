import jax
import jax.numpy as jnp
import numpy as np
import optax

from morel_jax.training.packing import pack, pack_optimizer, unpack, unpack_optimizer

PARAMS = {"b": jnp.arange(3.0), "k": jnp.ones((2, 2)), "n": jnp.arange(2), "s": jnp.asarray(7.0)}


def test_small_arrays_become_one_of_each_type():
    packed = pack(PARAMS)
    np.testing.assert_array_equal(packed["vectors"]["float32"], [0, 1, 2, 7])
    np.testing.assert_array_equal(packed["vectors"]["int32"], [0, 1])
    assert [array.shape for array in packed["arrays"]] == [(2, 2)]


def test_unpacking_gives_the_tree_back():
    back = unpack(pack(PARAMS), PARAMS)
    assert jax.tree.structure(back) == jax.tree.structure(PARAMS)
    for got, want in zip(jax.tree.leaves(back), jax.tree.leaves(PARAMS), strict=True):
        assert got.shape == want.shape
        np.testing.assert_array_equal(got, want)


def test_an_optimisers_update_is_that_of_the_tree():
    params = {name: leaf for name, leaf in PARAMS.items() if name != "n"}
    grads = jax.tree.map(lambda leaf: 0.5 * leaf + 1, params)
    optimizer = optax.chain(optax.add_decayed_weights(0.1), optax.trace(0.9))
    state = optimizer.init(params)
    for _ in range(2):
        want, want_state = optimizer.update(grads, state, params)
        got, packed = optimizer.update(pack(grads), pack_optimizer(state, params), pack(params))
        state = unpack_optimizer(packed, state, params)
        jax.tree.map(np.testing.assert_array_equal, (unpack(got, params), state), (want, want_state))
