"""Types of what attacks take and return, with shapes by jaxtyping; nothing checks them at run time."""
from collections.abc import Callable
from typing import Any, Protocol

from jaxtyping import Array, Bool, Float, Int, Key

Images = Float[Array, "n h w c"]  # In [0, 1], where they are not gradients.
Points = Float[Array, "n ..."]    # Images of any number of axes.
Logits = Float[Array, "n classes"]
Labels = Int[Array, " n"]
Values = Float[Array, " n"]
Counts = Int[Array, " n"]
Mask = Bool[Array, " n"]
Keys = Key[Array, " n"]
KeyOrKeys = Key[Array, "..."]     # One key for all examples, or one per example.


# What an attack of one's own climbs: (logits, labels) -> one value per example.
OwnLoss = Callable[[Logits, Labels], Values]


class LogitsFn(Protocol):
    """Images float[n, h, w, c] to logits float[n, classes]; a network that answers at random also takes keys[n]."""

    def __call__(self, *arguments: Any, **options: Any) -> Logits: ...
