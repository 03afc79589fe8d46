"""Data sets as tensors in memory, indexed by batch; batches drawn by (row, epoch)."""
