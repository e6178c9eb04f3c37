"""Floor 1: from audio on disk to NumPy batches. Sources, decoding, and the input pipeline."""
