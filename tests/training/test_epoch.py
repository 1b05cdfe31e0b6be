import functools
import itertools
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from morel_jax.training.epoch import Piece, compile_train_epoch, compiler_options, empty_totals, train_epoch
from morel_jax.training.step import Batch
from tests.small import images_and_labels, small_config
from tests.training.steps import KEY, compiled, once, setup, still


@functools.cache
def compiled_loop(parts):
    """``train_epoch`` of ``parts``, compiled once for all tests."""
    return once(train_epoch, parts, donate_argnums=(0, 1))


def run(config, steps, cuts=((),), most=6, **numbers):
    """`steps` steps of at most `most` by the loop, for each of `cuts` into pieces; ``numbers`` replace hparams."""
    parts, hparams, state, batch = setup(config)
    hparams = hparams.replace(**numbers)
    images, labels = images_and_labels(24, channels=1)
    rows = np.arange(most * 8, dtype=np.int32).reshape(most, 8) % 24
    totals = empty_totals(state, hparams, batch, KEY, parts=parts)
    loop, found = compiled_loop(parts), []
    for stops in cuts:
        reached = jax.tree.map(np.array, (state, totals))
        for first, stop in itertools.pairwise((0, *stops, steps)):
            reached = loop(*reached, hparams, Piece(images, labels, rows, rows), KEY, np.int32(first), np.int32(stop))
        found.append(reached)
    return found


@pytest.mark.parametrize("config", [still("trades"), small_config("pgd_at")], ids=["still", "augmented"])
def test_cuts_do_not_change_a_bit(config):
    (whole_state, whole_totals), *in_pieces = run(config, 6, cuts=((), (1,), (2, 5), (1, 2, 3, 4, 5)))
    for state, totals in in_pieces:
        chex.assert_trees_all_equal(state, whole_state)
        chex.assert_trees_all_equal(totals, whole_totals)


def test_joining_small_arrays_changes_nothing():
    """What an accelerator does with the update and the averages, here on a CPU."""
    parts, hparams, state, batch = setup(still("trades", ema_decay=0.9))
    images, labels = images_and_labels(24, channels=1)
    rows = np.arange(24, dtype=np.int32).reshape(3, 8)
    found = {}
    for platform in ("cpu", "gpu"):
        own = parts.on(platform)
        assert own.packed == (platform == "gpu")
        totals = empty_totals(state, hparams, batch, KEY, parts=own)
        found[platform], _ = jax.jit(functools.partial(train_epoch, parts=own))(
            state, totals, hparams, Piece(images, labels, rows, rows), KEY, np.int32(0), np.int32(3))
    # Two programs, which round differently: a relative distance of 3e-6 was seen.
    chex.assert_trees_all_close(found["gpu"], found["cpu"], rtol=1e-4, atol=1e-7)


def test_loop_equals_single_steps():
    config = still("trades")
    parts, hparams, state, _ = setup(config)
    images, labels = images_and_labels(24, channels=1)
    ((looped, totals),) = run(config, 3)
    step = compiled(parts)
    losses = []
    for i in range(3):
        rows = np.arange(8 * i, 8 * i + 8, dtype=np.int32)
        state, metrics = step(state, hparams, Batch(images[rows], labels[rows], rows), KEY)
        losses.append(metrics["loss"])
    chex.assert_trees_all_close(looped.params, state.params, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(totals.sums["loss"], np.sum(losses), rtol=1e-5)
    assert int(totals.count) == 3


def test_first_bad_step_is_named():
    config = still("trades", optimizer__learning_rate=1e30)
    ((state, totals),) = run(config, 5)
    assert not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    parts, hparams, single, _ = setup(config)
    images, labels = images_and_labels(24, channels=1)
    step = compiled(parts)
    for expected in range(5):
        rows = np.arange(8 * expected, 8 * expected + 8, dtype=np.int32) % 24
        single, metrics = step(single, hparams, Batch(images[rows], labels[rows], rows), KEY)
        if not (np.isfinite(metrics["loss"]) and all(np.isfinite(p).all() for p in jax.tree.leaves(single.params))):
            break
    assert int(totals.first_bad_step) == expected
    assert int(run(still("trades"), 2)[0][1].first_bad_step) == -1


def test_state_is_donated():
    parts, hparams, state, batch = setup(small_config("standard", batch_norm__statistics_from=("natural",)))
    state = jax.tree.map(jnp.array, state)
    totals = empty_totals(state, hparams, batch, KEY, parts=parts)
    rows = np.arange(8, dtype=np.int32)[None]
    compile_train_epoch(parts)(state, totals, hparams, Piece(batch.images, batch.labels, rows, rows), KEY, 0, 1)
    assert jax.tree.leaves(state.params)[0].is_deleted()


def test_parameters_that_overflow_in_the_last_step_are_found():
    ((_, totals),) = run(still("trades"), 1, learning_rate=np.float32(np.inf))
    assert np.isfinite(totals.sums["loss"])
    assert int(totals.first_bad_step) == 1  # The step that would begin with them.


@pytest.mark.parametrize(("platform", "remat", "cuda_graph", "options"), [
    ("cpu", False, True, None), ("cpu", True, False, {"xla_disable_hlo_passes"}),
    ("gpu", True, False, None), ("gpu", True, True, {"xla_gpu_enable_command_buffer"}), ("tpu", True, True, None)])
def test_the_compilers_options_are_those_of_the_target(platform, remat, cuda_graph, options):
    parts = SimpleNamespace(model=SimpleNamespace(remat=remat), cuda_graph=cuda_graph)
    found = compiler_options(parts, platform)
    assert (None if found is None else set(found)) == options
