"""What the bytes of an audio file say of its length, its parts and its codec."""
