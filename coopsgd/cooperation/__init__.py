"""The loop in somebody else's program: his modules are the rows, his optimisers take the steps, his data come from him."""
