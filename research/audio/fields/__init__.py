"""What a batch holds besides audio."""
