"""The verbs of the command line, each with what it prints."""
