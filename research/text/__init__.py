"""Characters and tokenizers."""
