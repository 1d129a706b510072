"""Networks by name: our Flax families, published checkpoints of them, and models of other programs."""
