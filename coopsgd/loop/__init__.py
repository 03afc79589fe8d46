"""One iteration, for runs, rehearsals and probes."""
