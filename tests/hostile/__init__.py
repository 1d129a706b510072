"""Releases that somebody made to harm whoever verifies them: manifests with something wrong at every place, and folders."""

from tests.hostile.contents import NPZ, TARS, png
from tests.hostile.folders import BAIT, FOLDERS
from tests.hostile.forged import forge, honest, reseal
from tests.hostile.manifests import manifests
from tests.hostile.watch import Seen, watched

__all__ = ["BAIT", "FOLDERS", "NPZ", "TARS", "Seen", "forge", "honest", "manifests", "png", "reseal", "watched"]
