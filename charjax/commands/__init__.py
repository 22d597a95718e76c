"""The sub-commands of `charjax` that have no `python -m charjax.X` of their own."""
