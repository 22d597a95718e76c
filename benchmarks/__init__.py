"""What is timed and measured, and the JSON files that the README's numbers are made from."""
