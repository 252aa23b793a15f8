"""What a saved result says: its table as text, and its figure with the null models."""

from sgdvi_lite.experiments.reporting import draw, table

__all__ = ["draw", "table"]
