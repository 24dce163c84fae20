"""Cascade-aware training: a small language model that knows a large one stands behind it."""
