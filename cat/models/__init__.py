"""One configurable decoder, its attention, positions and cache."""
