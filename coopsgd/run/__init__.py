"""A run folder: who writes it, who reads it."""
