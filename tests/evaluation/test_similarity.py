from types import SimpleNamespace

import numpy as np
import pytest

from morel_jax.evaluation.similarity import feature_similarity, mean_similarities


def test_rows_are_attacked_images():
    model = SimpleNamespace(apply=lambda variables, images: SimpleNamespace(features=images.reshape(len(images), -1)))
    x, x_adv = np.array([[3.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 1.0], [0.0, 5.0]])
    np.testing.assert_allclose(feature_similarity(model, {}, x, x_adv), [[0.5**0.5, 0.5**0.5], [0, 1]], rtol=1e-6)


def test_means_by_class():
    similarity = np.array([[1.0, 0.5, 0.1], [0.3, 1.0, 0.1], [0.2, 0.2, 0.7]])
    assert mean_similarities(similarity, np.array([0, 0, 1])) == pytest.approx(
        {"own": 0.9, "same_class": 0.4, "other_class": 0.15})
    assert np.isnan(mean_similarities(similarity, np.arange(3))["same_class"])
