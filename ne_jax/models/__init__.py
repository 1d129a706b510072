"""Networks in Flax NNX: one file a family, and a registry that gives a model by name."""
