"""Fleets hold the rows and move information between them: `Stacked` in one process, `Shared` in the memory of
one host, `Processes` over torch.distributed.
"""
