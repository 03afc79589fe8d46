"""Runs side by side: found below folders, put together where they differ by their seed alone, read against an axis."""
