"""What anyone can do with a release: one module for what its attacks know, and no module that sees a workdir."""
