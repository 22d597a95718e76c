"""Measurements of runs during training, at chosen steps; they change no run."""
