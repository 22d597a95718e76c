"""Measurements of one network: seconds each, plain data out."""
