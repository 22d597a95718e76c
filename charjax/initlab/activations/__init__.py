"""Recording of activations and gradients inside a model."""
