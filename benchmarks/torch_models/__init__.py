"""The models as their PyTorch originals are written: what charjax is compared with.

Nothing here is imported by charjax. The tests in tests/parity compare numbers with them.
"""
