"""Training on a device: state, step, optimizer, program, evaluation, ensemble, session."""
