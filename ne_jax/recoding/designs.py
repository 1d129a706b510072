"""The recoding designs, and what each needs beside an image."""

from __future__ import annotations

from typing import Literal

from ne_jax.core.subspace import Subspace
from ne_jax.recoding.deep import Deep
from ne_jax.recoding.guided import Guide
from ne_jax.recoding.paper import Tile

Design = Literal["gaussian", "boxed", "contrastive", "guided", "deep", "paper"]
Directions = Subspace | Guide | Deep | Tile
