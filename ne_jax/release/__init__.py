"""NEs as ordinary files that prove themselves: formats, manifest, writing, reading, verifying."""
