"""What can be measured of a network at its first step, a topic a file."""
