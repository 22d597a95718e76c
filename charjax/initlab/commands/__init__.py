"""The laboratory's commands: one file each, thin, with its own arguments."""
