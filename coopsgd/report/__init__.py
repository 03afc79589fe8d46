"""What a run leaves and shows: metrics.jsonl, TensorBoard events, the console, summary.json. Rank 0 only."""
