"""The optimisers beside AdamW, SGD and RMSProp: directions by optax, Muon, schedule-free AdamW."""
