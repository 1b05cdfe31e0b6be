import jax
import numpy as np
import pytest

from morel_jax.progress import TrainingProgress
from morel_jax.training import fit
from morel_jax.training.profile import Profile
from tests.small import small_config, small_dataset


def _profile(steps, tmp_path):
    return Profile(steps, tmp_path, TrainingProgress(small_config(), False))


def test_it_waits_for_a_dispatch_that_is_warm_and_long_enough(tmp_path):
    profile = _profile(3, tmp_path)
    assert profile.steps(6, 6) == 0  # Not compiled.
    with profile.around(0):
        pass
    assert profile.steps(2, 6) == 0  # The rest of the epoch is too short.
    assert profile.steps(2, 2) == 2  # A streamed piece never has more.
    assert profile.steps(6, 6) == 3
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("steps", [-1, 1.5, True, "2"])
def test_a_wrong_number_is_refused(steps, tmp_path):
    with pytest.raises(ValueError, match="profile must be a number of steps, 0 or more; got"):
        _profile(steps, tmp_path)


@pytest.mark.slow
def test_a_profiled_run_is_the_same_run(tmp_path, capsys):
    plain, _ = fit(small_config(), tmp_path / "plain", progress=False, dataset=small_dataset())
    profiled, _ = fit(small_config(), tmp_path / "profiled", progress="epochs", dataset=small_dataset(), profile=2)
    jax.tree.map(np.testing.assert_array_equal, plain, profiled)
    said = f"profile of 2 steps: {tmp_path / 'profiled' / 'profile'}"
    assert capsys.readouterr().err.splitlines().count(said) == 1
    (perfetto,) = (tmp_path / "profiled" / "profile").rglob("perfetto_trace.json.gz")
    assert list(perfetto.parent.glob("*.xplane.pb"))
    # A run may be resumed without it, or with another.
    fit(small_config(), tmp_path / "profiled", progress=False, dataset=small_dataset())
