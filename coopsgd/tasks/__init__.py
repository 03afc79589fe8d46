"""What is learned. A task's dataclass is what a config chooses; what it `build`s holds rows, losses and gradients."""
