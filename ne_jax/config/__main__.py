"""Print docs/CONFIG.md: python -m ne_jax.config > docs/CONFIG.md."""

from ne_jax.config.tables import markdown

print(markdown(), end="")
