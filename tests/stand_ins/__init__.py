"""Doubles of GPU libraries that really compute, on host memory. None of them is evidence of anything by itself."""
