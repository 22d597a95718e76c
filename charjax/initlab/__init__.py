"""The initialisation laboratory: what a scheme does to a network, beside what theory says."""
