"""`harness inspect`: what a file is, by its own bytes, its sidecar and the run it lies in, and where those disagree.

Nothing of a file is executed, and no more of it is read than the answer needs; only a file's hash reads it whole.
"""
