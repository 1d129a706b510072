"""One file a family of networks, with the names that its published checkpoints use."""
