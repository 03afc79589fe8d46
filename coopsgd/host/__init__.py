"""What the operating system gives: processes, signals, consoles, files, memory."""
