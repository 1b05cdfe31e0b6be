import itertools

import numpy as np


def extreme_logits():
    """Every pair of rows over {-1e4, 0, 1e4}^3 with every label: natural, adversarial, labels."""
    rows = list(itertools.product((-1e4, 0.0, 1e4), repeat=3))
    cases = itertools.product(rows, rows, range(3))
    natural, adversarial, labels = zip(*cases, strict=True)
    return np.array(natural, np.float32), np.array(adversarial, np.float32), np.array(labels, np.int32)
