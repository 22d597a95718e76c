"""A run on the host: loop, progress, recorder, checkpoint, lock, notes, metrics, display, load."""
