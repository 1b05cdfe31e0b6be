"""Every reader refuses hostile and damaged files in one line, at once, and without the memory that they claim."""
import pytest

from tests.hostile import FILES, refuse


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_is_refused(file, tmp_path):
    refuse(file, tmp_path)


def test_names_are_different():
    assert len({file.name for file in FILES}) == len(FILES) > 100
