"""A person's mistakes, told in one line that names the thing and the way out."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input that its owner can mend. `main` prints the message without a traceback and exits with status 2."""
