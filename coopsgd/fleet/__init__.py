"""Fleets hold the rows and move information between them: `Stacked` in one process, `Processes` over torch.distributed."""
