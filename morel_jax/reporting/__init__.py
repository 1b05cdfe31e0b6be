"""Looking at runs: one HTML page of curves, judgements, pictures and configs."""
from morel_jax.reporting.page import watch, write_report

__all__ = ["watch", "write_report"]
