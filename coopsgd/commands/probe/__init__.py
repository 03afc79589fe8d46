"""`coopsgd probe`: what theory asks of a model, its data and the machines, measured into a file."""
