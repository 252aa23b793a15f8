"""What a saved result says: its table, and its figure with the null models."""

from sgdvi_lite.experiments.registry import draw, table

__all__ = ["draw", "table"]
