"""Stage 2: Checkpoint -> OnnxModel, Golden -> Engine."""
