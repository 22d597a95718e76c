"""Conversion to and from PyTorch's state dicts: one module per layout, safetensors files."""
