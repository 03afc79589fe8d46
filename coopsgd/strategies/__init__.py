"""How models move between two gradients: one idea, one paper, one file. `cooperative` is A(tau, W, v) itself."""
