"""The compiled programs hold against stored counts: a pass too many or a lost fusion fails here, without a clock."""
import pytest

from tests.targets.counts import PROGRAMS, STORED, difference, measured, stored

_ACCEPT = "python -m tests.targets.counts --record"
# A CPU's compiler is always there, those of the others with the extra.
_CASES = [pytest.param(name, id=name, marks=[pytest.mark.targets, *([] if program.target else [pytest.mark.slow])])
          for name, program in PROGRAMS.items()]


@pytest.mark.parametrize("name", _CASES)
def test_as_stored(name):
    versions, known = PROGRAMS[name].versions, stored()
    if name not in known.get(versions, {}):
        others = "; ".join(key for key, counts in known.items() if name in counts)
        pytest.skip(f"counts of {name} are stored for {others}, and not for {versions}; {_ACCEPT} '{name}' stores them")
    if changed := difference(known[versions][name], measured(name)):
        pytest.fail(f"{name} ({versions}): the compiled program is not the one in {STORED.name}\n{changed}\n"
                    f"  If that is meant: {_ACCEPT} '{name}'", pytrace=False)


def test_a_difference_says_what_moved():
    before = {"kernels.step": 1555, "all-reduce of 8, MiB": 43.5, "gone": 2}
    assert difference(before, dict(before)) == ""
    assert difference(before, {"kernels.step": 1602, "all-reduce of 8, MiB": 43.25, "new": 1}).split("\n") == [
        "  kernels.step                              1,555 ->      1,602  (+47)",
        "  all-reduce of 8, MiB                       43.5 ->      43.25  (-0.25)",
        "  gone                                          2 ->          0  (-2)",
        "  new                                           0 ->          1  (+1)"]


def test_counts_are_stored_for_the_versions_in_use():
    """Two versions of JAX at least, and every program of each platform in one of them."""
    versions = {key.partition(",")[0] for key in stored()}
    assert {"jax 0.10.2", "jax 0.12.0.1"} <= versions
    assert set().union(*stored().values()) == set(PROGRAMS)
