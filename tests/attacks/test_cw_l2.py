import chex
import jax
import numpy as np

from morel_jax.attacks.cw_l2 import CWL2
from tests.attacks.test_nearest import KEY, MODEL, run


def test_every_example_ends_its_own_descents():
    """Those that have stopped early take fewer steps than searches times steps; none takes more."""
    state = run(CWL2(max_iter=100, num_searches=5), MODEL.logits, KEY, MODEL.x, MODEL.y)
    assert state.done.all()
    assert (state.search == 5).all()
    assert (state.steps <= 500).all()
    assert state.steps.min() < state.steps.max()


def test_the_weight_rises_tenfold_and_is_then_halved_towards_the_last_that_failed():
    state = run(CWL2(max_iter=50, num_searches=6), MODEL.logits, KEY, MODEL.x, MODEL.y)
    assert (state.below < state.const).all()
    assert (state.const < state.above).all()
    np.testing.assert_allclose(state.const, (state.below + state.above) / 2, rtol=1e-6)
    never = run(CWL2(max_iter=1, num_searches=4), MODEL.logits, KEY, MODEL.x, MODEL.y)
    np.testing.assert_allclose(never.const, 10, rtol=1e-5)  # 0.001, four times multiplied by ten.


def test_confidence_is_the_lead_of_the_other_class():
    state = run(CWL2(confidence=np.float32(0.5), max_iter=50), MODEL.logits, KEY, MODEL.x, MODEL.y)
    logits, rows = np.asarray(MODEL.logits(state.x_adv)), np.arange(len(MODEL.y))
    assert state.found.all()
    assert (logits[rows, 1 - MODEL.y] - logits[rows, MODEL.y] >= 0.5 - 1e-4).all()


def test_one_compile_for_all_numbers():
    @jax.jit
    @chex.assert_max_traces(1)
    def mean_distance(attack):
        return attack.run(MODEL.logits, KEY, MODEL.x, MODEL.y).best_distance.mean()

    found = [mean_distance(CWL2(np.float32(0), np.float32(rate), 20, 5,
                                np.float32(1.0))) for rate in (0.01, 0.03, 0.1)]
    assert len(set(map(float, found))) == 3
