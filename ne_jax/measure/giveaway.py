"""What stage inspect writes of designs that would give themselves away: how much attacks on the whole release would find."""

from __future__ import annotations

from ne_jax.files import Record
from ne_jax.measure.records import Count, Foretold


class Regained(Record, kw_only=True):
    """What a reader makes of the files after the attack that helps it most. agreement: with its own answers to the clean pictures."""

    agreement: float
    attack: str


class AtFiles(Record, kw_only=True):
    """What attacks do that have so many files. The picture that comes nearest to the clean one: rebuilt_db, its median PSNR; share, of
    the pictures' variance that is back, 0 to 1; attack, whose it is. They are None where no attack found anything."""

    files: Count
    readers: dict[str, Regained]
    rebuilt_db: float | None
    share: float
    attack: str | None


class GivenAway(Record, kw_only=True):
    """What a design would give away, in a number format, on a sample."""

    design: str
    release_format: str
    psnr_db: float  # median of the files that are attacked
    planned: Count  # files
    simulated: Count  # files, at most
    pictures: Count  # different ones among them
    n: Count  # pictures that are attacked and given to readers
    files: int | None  # of 1, 8, 64, ... the first at which it gives itself away; None: at none that was simulated
    agreement_ne: dict[str, float]  # of readers, on the files as they are
    points: list[AtFiles]  # the numbers of files that were looked at, ascending
    at_planned: dict[str, Foretold]  # agreement of readers at `planned` files, after the attack that helps each most


class NotSimulated(Record, kw_only=True):
    """A design of which nothing can be told. release_format: None for every one."""

    design: str
    release_format: str | None
    why: str


class Giveaway(Record, kw_only=True):
    """What designs would give away at a number of files."""

    designs: list[GivenAway] = []
    not_simulated: list[NotSimulated] = []
