"""Writers of metrics and samples to TensorBoard and Weights & Biases.

metrics.jsonl and samples.txt stay the record of a run: a tracker is filled from them when the run
starts or resumes, so that it holds each step once.
"""
