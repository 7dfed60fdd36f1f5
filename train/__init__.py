"""Stage 1: images -> Checkpoint."""
