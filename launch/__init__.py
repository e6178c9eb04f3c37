"""Commands: thin absl entry points over `research`."""
