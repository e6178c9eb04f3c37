"""Audio on disk to NumPy batches: sources, decoding, and the input pipeline."""
