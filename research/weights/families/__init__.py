"""What the key tables of several releases share."""
