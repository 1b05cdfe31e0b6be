import pytest

from morel_jax.evaluation.handover import Handover


@pytest.fixture
def three():
    """Two workers of one device and one of another, each with five free rows."""
    handover = Handover(["a", "a", "b"])
    for worker in range(3):
        handover.announce(worker, 5)
    return handover


def test_what_is_given_arrives_once(three):
    assert three.give(0, "rows", 3)
    assert three.take(1) == ["rows"]
    assert three.take(1) == []


def test_rows_given_away_take_up_room():
    handover = Handover(["a"] * 3)
    handover.announce(0, 5)
    assert handover.give(1, "one", 3)
    assert not handover.give(2, "two", 3)
    handover.announce(0, 6)  # Which does not know yet of the three that are on their way.
    assert handover.give(2, "two", 3)
    assert handover.take(0) == ["one", "two"]


def test_nobody_gives_where_examples_wait_or_there_is_no_room():
    handover = Handover(["a", "a"])
    assert not handover.give(1, "rows", 1)
    handover.announce(0, 2)
    assert not handover.give(1, "rows", 3)


def test_other_devices_are_given_nothing(three):
    assert not three.give(2, "rows", 3)


def test_who_has_given_gets_nothing(three):
    assert three.give(0, "rows", 3)
    assert not three.give(1, "back", 1)


def test_who_was_given_something_neither_gives_nor_leaves(three):
    assert three.give(0, "rows", 3)
    assert not three.leave(1)
    assert not three.give(1, "back", 1)
    assert three.take(1) == ["rows"]
    assert three.leave(1)


def test_who_left_gets_nothing(three):
    assert three.leave(1)
    assert not three.give(0, "rows", 3)


def test_the_fullest_block_that_has_room_gets_them():
    handover = Handover(["a"] * 4)
    for worker, free in enumerate([7, 4, 2]):
        handover.announce(worker, free)
    assert handover.give(3, "rows", 3)
    assert handover.take(1) == ["rows"]
