"""`coopsgd train`: one run, or the runs of a sweep."""
