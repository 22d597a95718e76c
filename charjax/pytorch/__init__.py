"""The models as their PyTorch originals are written, for comparison with charjax.

Imported only where PyTorch is installed: by `charjax benchmark --against torch`, and by the tests
in tests/parity, which compare numbers with them.
"""
