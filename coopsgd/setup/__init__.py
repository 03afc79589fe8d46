"""From the words of a command to a checked config and the parts that it names."""
