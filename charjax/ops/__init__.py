"""Hot primitives, each beside the plain version that it must equal."""
