from types import SimpleNamespace

import numpy as np
import pytest

from morel_jax.configuration import recipe
from morel_jax.optimizer import learning_rate, rate_at, schedule, sgd
from tests.test_builders import changed


@pytest.mark.parametrize(("architecture", "rates"), [
    ("resnet18", {1: 1e-3, 74: 1e-3, 75: 1e-4, 89: 1e-4, 90: 1e-5, 100: 1e-5}),
    ("wide_resnet34_10", {1: 1e-2, 74: 1e-2, 75: 1e-4, 89: 1e-4, 90: 1e-6, 100: 1e-6}),
])
def test_papers_learning_rates(architecture, rates):
    config = recipe(f"{architecture},morel_mart,paper")
    for epoch, rate in rates.items():
        np.testing.assert_allclose(learning_rate(config, epoch), rate, rtol=1e-12)


def test_cosine_schedule_with_warm_up():
    config = changed(epochs=12, optimizer__schedule="cosine", optimizer__warmup_epochs=2, optimizer__learning_rate=0.3)
    rates = [learning_rate(config, epoch) for epoch in range(1, 13)]
    np.testing.assert_allclose(rates[:3], [0.1, 0.2, 0.3])
    np.testing.assert_allclose(rates[2:], [0.15 * (1 + np.cos(np.pi * done / 10)) for done in range(10)])
    assert rates[7] == pytest.approx(0.15)  # Half way.


def test_warm_up_before_drops():
    config = changed(optimizer__warmup_epochs=1, optimizer__learning_rate=0.2, optimizer__drop_epochs=(3,),
                     optimizer__drop_factors=(0.1,))
    assert [learning_rate(config, epoch) for epoch in (1, 2, 3)] == pytest.approx([0.1, 0.2, 0.02])


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_pytorchs(nesterov):
    """Three updates of one weight by hand: buf = m buf + g; the step is buf, or g + m buf in Nesterov's form."""
    config = changed(optimizer__nesterov=nesterov)
    transformation = sgd(config)(SimpleNamespace(momentum=0.9, weight_decay=0.1))
    weight, buffer, state = 2.0, 0.0, transformation.init(2.0)
    for gradient in (1.0, -0.5, 0.25):
        decayed = gradient + 0.1 * weight
        buffer = 0.9 * buffer + decayed
        update, state = transformation.update(gradient, state, weight)
        assert float(update) == pytest.approx(decayed + 0.9 * buffer if nesterov else buffer)
        weight -= 0.1 * float(update)


def rates_of_a_run(config, steps_per_epoch):
    """The rate of every step as the compiled step reads it."""
    found = []
    for epoch in range(1, config.epochs + 1):
        numbers = SimpleNamespace(**schedule(config, epoch, steps_per_epoch))
        found += [float(rate_at(numbers, np.int32((epoch - 1) * steps_per_epoch + step)))
                  for step in range(steps_per_epoch)]
    return found


def test_one_cycle_rises_and_falls_step_by_step():
    config = changed(epochs=5, optimizer__schedule="one_cycle", optimizer__learning_rate=0.2)
    rates = rates_of_a_run(config, steps_per_epoch=4)
    np.testing.assert_allclose(rates, np.interp(np.arange(20), [0, 8, 20], [0, 0.2, 0]), rtol=1e-6)


def test_cyclic_has_triangles():
    config = changed(epochs=2, optimizer__schedule="cyclic", optimizer__learning_rate=0.3, optimizer__cycles=2,
                     optimizer__warmup_epochs=0)
    rates = rates_of_a_run(config, steps_per_epoch=4)
    np.testing.assert_allclose(rates, [0, 0.15, 0.3, 0.15] * 2, rtol=1e-6)


@pytest.mark.parametrize("name", ["drops", "cosine"])
def test_other_schedules_have_one_rate_per_epoch(name):
    config = changed(epochs=4, optimizer__schedule=name, optimizer__drop_epochs=(3,), optimizer__drop_factors=(0.1,))
    rates = rates_of_a_run(config, steps_per_epoch=3)
    assert rates == [pytest.approx(learning_rate(config, epoch)) for epoch in (1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4)]
