"""The paper's tables and figures: what they need, how it is trained and evaluated, and the report."""

__all__ = ["grid", "page", "paper", "report", "trials", "work"]
