"""The mutant test of the gate: artifacts damaged as real bugs damage them, and honest rebuilds, through the real bench.

subject.py    the honest runs: films or phantoms, a colour run beside them, every export
bed.py        one artifact in a run of its own, where it may be damaged; a sidecar that vouches for the damage
graphs.py     small surgery on ONNX graphs
weights.py    ends.py  rows.py  precisions.py  contracts.py  runtimes.py    the mutants, by where the bug sits
rebuilds.py   what must not be accused
caller.py     what somebody who trusts the file would get, measured without bench
judging.py    the verdict of bench, and whether it is the right one
"""
