"""The paper's tables and figures: what must be trained and judged for them, the doing of it, and the report."""
