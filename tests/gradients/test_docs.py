import re
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "gradients.md"


@pytest.mark.slow
def test_the_examples_run_and_say_what_the_page_says():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block, names)
    rise = (names["logits_fn"](names["x"]) - names["logits_fn"](0 * names["x"]))[np.arange(4), names["y"]]
    np.testing.assert_allclose(names["shares"].sum((1, 2, 3)), rise, atol=0.05 * np.abs(rise).max())
    assert names["across_weights"].shape == (5, 5)
    assert names["around_images"].shape == (5, 5, 4)
    # The middle of either surface is the origin.
    np.testing.assert_allclose(names["across_weights"][2, 2], names["mean_loss"](names["params"]), rtol=1e-5)
    np.testing.assert_allclose(names["around_images"][2, 2].mean(), names["across_weights"][2, 2], rtol=1e-5)
    assert names["influence"].rates.shape == (5, 2)
    assert len(names["history"]) == 2
