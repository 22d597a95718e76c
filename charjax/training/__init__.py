"""From a session to a finished run: step, compiled loop, checkpoints, evaluation, records."""
