"""Stage 3: artifacts -> parity, then time -> report."""
