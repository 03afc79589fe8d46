"""What can be predicted before a run: theory, cost, time on a cluster."""
