"""The models as their PyTorch originals are written, for comparison with charjax.

Nothing here is imported by charjax. The tests in tests/parity compare numbers with them.
"""
