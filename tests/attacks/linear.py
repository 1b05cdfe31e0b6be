"""A linear classifier, whose nearest adversarial images are known."""
import numpy as np


class Linear:
    """Logits W x + b of random weights, and images in the middle of the box that it classifies as it is told.

    Args:
        classes, shape: of the problem.
        count: images.
        seed: of all of it.

    Attributes:
        x, y: float32[count, *shape] within 0.3 .. 0.7 and int32[count], the classifier's own answers.
    """

    def __init__(self, classes=5, shape=(4, 4, 2), count=16, seed=0):
        random = np.random.default_rng(seed)
        self.weights = random.normal(size=(int(np.prod(shape)), classes)).astype(np.float32)
        self.bias = random.normal(size=classes).astype(np.float32)
        self.x = random.uniform(0.3, 0.7, (count, *shape)).astype(np.float32)
        self.y = np.argmax(self.logits(self.x), axis=-1).astype(np.int32)

    def logits(self, x):
        """float[n, *shape] -> float[n, classes]; of numpy's arrays numpy's, which compiles nothing."""
        return x.reshape(len(x), -1) @ self.weights + self.bias

    def distances(self, norm):
        """float64[count]: distance to the nearest decision boundary, ``linf`` or ``l2``, the box left aside."""
        logits = np.asarray(self.logits(self.x), np.float64)
        rows = np.arange(len(self.y))
        lead = logits[rows, self.y][:, None] - logits
        apart = self.weights[:, self.y].T[:, None, :] - self.weights.T[None]
        dual = np.abs(apart).sum(-1) if norm == "linf" else np.sqrt((apart**2).sum(-1))
        distances = np.where(np.arange(logits.shape[1]) == self.y[:, None], np.inf, lead / np.maximum(dual, 1e-12))
        return distances.min(-1)
