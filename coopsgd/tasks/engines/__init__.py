"""Losses and gradients of many stacked models: one file a way, all equal; `choice.py` tells which is fastest."""
