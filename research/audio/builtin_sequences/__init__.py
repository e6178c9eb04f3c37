"""Built-in clips of one second in which the order of things matters; for `make demo`."""
