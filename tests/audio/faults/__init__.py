"""Audio in any state: what goes wrong with files and lists, by kind."""
