"""What can be told before a run: theory, cost, time on a cluster."""
