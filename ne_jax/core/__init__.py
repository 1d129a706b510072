"""The paper's mathematics: first layers, spectra, subspaces, bounds. Arrays and pytrees in and out; no files, no flags, no Flax."""
