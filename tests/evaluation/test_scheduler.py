import pytest

from morel_jax.evaluation.scheduler import Scheduler


@pytest.fixture
def three():
    """Two blocks of one device and one of another, each with five free rows."""
    scheduler = Scheduler([], ["a", "a", "b"])
    for block in range(3):
        scheduler.announce(block, 5)
    return scheduler


def test_each_example_is_handed_out_once():
    scheduler = Scheduler([3, 5, 8], ["a"])
    assert scheduler.take(2) == [3, 5]
    assert scheduler.has_waiting()
    assert scheduler.take(2) == [8]
    assert not scheduler.has_waiting()


def test_what_is_given_arrives_once(three):
    assert three.give(0, "rows", 3)
    assert three.receive(1) == ["rows"]
    assert three.receive(1) == []


def test_rows_given_away_take_up_room():
    scheduler = Scheduler([], ["a"] * 3)
    scheduler.announce(0, 5)
    assert scheduler.give(1, "one", 3)
    assert not scheduler.give(2, "two", 3)
    scheduler.announce(0, 6)  # Which does not know yet of the three that are on their way.
    assert scheduler.give(2, "two", 3)
    assert scheduler.receive(0) == ["one", "two"]


def test_nobody_gives_where_examples_wait_or_there_is_no_room():
    scheduler = Scheduler([], ["a", "a"])
    assert not scheduler.give(1, "rows", 1)
    scheduler.announce(0, 2)
    assert not scheduler.give(1, "rows", 3)


def test_other_devices_are_given_nothing(three):
    assert not three.give(2, "rows", 3)


def test_who_has_given_gets_nothing(three):
    assert three.give(0, "rows", 3)
    assert not three.give(1, "back", 1)


def test_who_was_given_something_neither_gives_nor_leaves(three):
    assert three.give(0, "rows", 3)
    assert not three.leave(1)
    assert not three.give(1, "back", 1)
    assert three.receive(1) == ["rows"]
    assert three.leave(1)


def test_who_left_gets_nothing(three):
    assert three.leave(1)
    assert not three.give(0, "rows", 3)


def test_the_fullest_block_that_has_room_gets_them():
    scheduler = Scheduler([], ["a"] * 4)
    for block, free in enumerate([7, 4, 2]):
        scheduler.announce(block, free)
    assert scheduler.give(3, "rows", 3)
    assert scheduler.receive(1) == ["rows"]
