"""Published checkpoints: opening them, telling who published them, and filling our networks from them."""
