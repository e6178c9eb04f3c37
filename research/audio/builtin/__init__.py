"""The built-in corpus: synthetic speech and sound events, the default when no data is named."""
