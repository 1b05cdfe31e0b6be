import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from morel_jax.attacks.iterative import AttackState, IterativeAttack, begin
from morel_jax.attacks.keys import fold_in_each
from morel_jax.evaluation import pool
from morel_jax.evaluation.evaluator import Evaluator, as_argument
from morel_jax.evaluation.pool import OneCall, Pool
from tests.attacks.linear import Linear


@struct.dataclass
class Noise(IterativeAttack):
    """An example of label y is done after 1 + 3 y steps, each of which adds noise from its key."""

    def start(self, keys, x, y, clean_logits):
        return AttackState(**begin(x, clean_logits, y))

    def step(self, logits_fn, keys, x, y, state):
        drawn = jax.vmap(lambda key, step: jax.random.uniform(jax.random.fold_in(key, step), x.shape[1:]))
        done = state.steps >= 3 * y
        return state.replace(x_adv=state.x_adv + 0.001 * drawn(keys, state.steps), done=done, found=done)


@struct.dataclass
class LongerWhereBlack(Noise):
    """An example is done after one step; after 301 where its first value is 0."""

    def step(self, logits_fn, keys, x, y, state):
        done = state.steps >= jnp.where(x[:, 0, 0, 0] == 0, 300, 0)
        return super().step(logits_fn, keys, x, y, state).replace(done=done, found=done)


def pool_of(attack, model):
    evaluator = Evaluator(as_argument(model.logits), model.x, model.y, width=8)
    return Pool(attack, evaluator, evaluator.logits_fn, jax.random.key(0), 0.1)


def finished(attack, model=None, indices=None, **options):
    model, rows = model or Linear(count=40), []
    pool_of(attack, model).run(np.arange(40) if indices is None else indices, rows.extend, **options)
    return model, {row.index: row for row in rows}, rows


def test_every_example_comes_back_once_with_its_own_result():
    model, by_index, rows = finished(Noise())
    assert len(rows) == 40
    assert sorted(by_index) == list(range(40))
    assert {index: row.steps for index, row in by_index.items()} == {
        index: 1 + 3 * label for index, label in enumerate(model.y)}
    keys = fold_in_each(jax.random.key(0), np.arange(40))
    alone = Noise().run(model.logits, keys, model.x, model.y)
    for index in range(40):
        np.testing.assert_allclose(by_index[index].rechecked["projected"], alone.x_adv[index], atol=1e-7)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 20, 2**31])
def test_batch_size_changes_nothing(batch_size):
    _, expected, _ = finished(Noise())
    _, got, _ = finished(Noise(), batch_size=batch_size)
    for index, row in expected.items():
        assert got[index].steps == row.steps
        np.testing.assert_array_equal(got[index].rechecked["projected"], row.rechecked["projected"])


def test_only_the_examples_asked_for():
    _, by_index, _ = finished(Noise(), indices=np.array([3, 30, 7]))
    assert sorted(by_index) == [3, 7, 30]


def test_one_compile_whatever_waits():
    traces = []

    @struct.dataclass
    class Counted(Noise):
        def step(self, logits_fn, keys, x, y, state):
            traces.append(x.shape)
            return super().step(logits_fn, keys, x, y, state)

    model = Linear(count=40)
    finished(Counted(), model=model, batch_size=40)
    first = len(traces)
    for indices in (np.arange(1), np.arange(13)):
        for batch_size in (1, 5, 40):
            finished(Counted(), model=model, indices=indices, batch_size=batch_size)
    assert first > 0
    assert len(traces) == first


def test_finished_rows_make_room():
    """Few steps are spent on rows that are done: 40 examples of unequal length in 8 rows."""
    taken = []
    advance = pool._advance

    def counted(*arguments):
        block, steps = advance(*arguments)
        taken.append(int(steps))
        return block, steps

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "_advance", counted)
        model, _, _ = finished(Noise(), batch_size=8)
    needed = int(np.sum(1 + 3 * model.y))
    waves = sum((1 + 3 * np.sort(model.y)[::-1]).reshape(5, 8).max(1))  # The best that whole batches can do.
    assert needed / 8 <= sum(taken) < 1.6 * needed / 8
    assert sum(taken) <= waves * 1.6


def test_half_empty_blocks_are_put_together(monkeypatch):
    """Two blocks of eight, in each of which one example takes 300 times as long as the others."""
    both_began, calls, joined = threading.Barrier(2), [], []
    advance, join = pool._advance, pool._join

    def step_by_step(attack, logits_fn, block, max_steps, want):
        calls.append(threading.get_ident())
        if calls.count(threading.get_ident()) == 1:
            both_began.wait(60)
        return advance(attack, logits_fn, block, 1, want)

    monkeypatch.setattr(pool, "_advance", step_by_step)
    monkeypatch.setattr(pool, "_join", lambda *arguments: joined.append(1) or join(*arguments))
    monkeypatch.setattr(pool, "_workers", lambda: jax.devices() * 2)
    model = Linear(count=16)
    model.x[3::8, 0, 0, 0] = 0
    model.y = np.asarray(jnp.argmax(model.logits(model.x), -1))
    _, by_index, rows = finished(LongerWhereBlack(), model=model, indices=np.arange(16), batch_size=16)
    assert joined == [1]
    assert len(rows) == 16
    assert {index: row.steps for index, row in by_index.items()} == {
        index: 301 if index % 8 == 3 else 1 for index in range(16)}
    monkeypatch.undo()
    for index, row in finished(LongerWhereBlack(), model=model, indices=np.arange(16), batch_size=8)[1].items():
        np.testing.assert_array_equal(by_index[index].rechecked["projected"], row.rechecked["projected"])


def test_other_attacks_take_one_step_with_their_passes():
    def shift(logits_fn, key, x, y):
        del logits_fn, key, y
        return x + 0.05

    attack = OneCall(jax.tree_util.Partial(shift), passes=20)
    model, by_index, _ = finished(attack)
    for index, row in by_index.items():
        assert row.steps == 20
        np.testing.assert_allclose(row.rechecked["projected"], model.x[index] + 0.05, rtol=1e-6)


def test_what_the_attacked_network_gets_wrong_stays_unless_it_answers_at_random():
    model = Linear(count=4)
    model.y[1] = (model.y[1] + 1) % 5
    shift = jax.tree_util.Partial(lambda logits_fn, keys, x, y: x + 0.05)
    for at_random in (False, True):
        attack = OneCall(shift, at_random=at_random)
        first = attack.first(model.logits, None, model.x, model.y)
        moved = attack.advance(model.logits, None, model.x, model.y, first).x_adv - model.x
        np.testing.assert_allclose(moved[:, 0, 0, 0], [0.05, 0.05 * at_random, 0.05, 0.05], atol=1e-6)


def test_an_error_while_reporting_ends_the_run():
    model = Linear(count=40)
    made = pool_of(Noise(), model)

    def report(rows):
        raise OSError("disk full")

    before = threading.active_count()
    with pytest.raises(OSError, match="disk full"):
        made.run(np.arange(40), report)
    assert threading.active_count() <= before
