"""Measurements of a network at its first step, one topic per file."""
