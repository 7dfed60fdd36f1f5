"""`make bench-peers`: our clock beside other people's, on one loaded model in one process, and beside itself.

subject.py           what is measured: a ResNet-18 of random weights, and the bench's own worker on it in this process
network.py           that network as an ONNX file, written by a process of its own
passing.py           a backend that hands on to another one
alternating.py       blocks of ours and theirs in turn, and the ratio
benchmark_application.py, load_generation.py, runner.py   OpenVINO's benchmark_app, MLCommons LoadGen, Polygraphy
self_comparison.py   the whole protocol on a model and itself, and on one slowed by 3 %
slowed_worker.py     the process that is 3 % slower
telling.py           the table, and the last line, which is JSON

    python -m bench.peers --work FOLDER
"""
