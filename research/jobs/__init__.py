"""Work over many files that can be killed and goes on."""
