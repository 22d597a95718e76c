"""The cost of a run: its programs compiled for any device, their memory and their time."""
