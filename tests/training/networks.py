"""Small networks that were not written for this library."""
import flax.linen as nn
from flax import nnx


class Linen(nn.Module):
    rate: float = 0.3

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x.reshape(len(x), -1)))
        x = nn.Dense(8, name="hidden")(nn.Dropout(self.rate, deterministic=not train)(x))
        return nn.Dense(10, name="head")(x)


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.norm = nnx.Linear(784, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.drop, self.head = nnx.Dropout(0.3, rngs=rngs), nnx.Linear(8, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(self.drop(nnx.relu(self.norm(self.hidden(x.reshape(len(x), -1))))))
