import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.attacks.keys import example_keys, fold_in_each


def data(keys):
    return np.asarray(jax.random.key_data(keys))


def test_one_key_gives_each_example_its_own():
    key = jax.random.key(3)
    keys = example_keys(key, 5)
    expected = [data(jax.random.fold_in(key, i)) for i in range(5)]
    np.testing.assert_array_equal(data(keys), expected)
    assert len(np.unique(data(keys), axis=0)) == 5


def test_old_style_keys_are_taken_too():
    old, new = (example_keys(make(3), 4) for make in (jax.random.PRNGKey, jax.random.key))
    np.testing.assert_array_equal(data(old), data(new))


def test_keys_given_one_an_example_are_used_as_they_are():
    keys = fold_in_each(jax.random.key(0), jnp.array([7, 2, 9]))
    np.testing.assert_array_equal(data(example_keys(keys, 3)), data(keys))


def test_wrong_number_of_keys():
    with pytest.raises(ValueError, match=r"array of 4 keys, one per example; got shape \(3,\)"):
        example_keys(jax.random.split(jax.random.key(0), 3), 4)
