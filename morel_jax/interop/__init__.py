"""To and from other programs: one module each. Two more, `art` and `foolbox`, need the extra of their name."""

__all__ = ["model_card", "stablehlo", "torch"]
