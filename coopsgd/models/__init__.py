"""Networks. A model's dataclass is what a config chooses and imports no torch; what it `build`s is a torch module."""
