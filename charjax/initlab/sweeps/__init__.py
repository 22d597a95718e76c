"""Sweeps: schemes, gains, sizes and learning rates over many seeds, each size one program."""
