"""oido: self-supervised audio representation learning in JAX."""
