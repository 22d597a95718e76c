"""Published figures, set beside what this program measures."""
