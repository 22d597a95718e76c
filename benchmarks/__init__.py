"""Benchmarks, and the JSON files that the pages' numbers are made from."""
