"""Parameters to and from PyTorch's state dicts: one file a layout, and files without pickle."""
