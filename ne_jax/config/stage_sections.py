"""Leaves of the stages that look at a release and change none: inspect, evaluate, attack and report."""

# No `from __future__ import annotations` here: the types of the fields are read as types.

from ne_jax.config.leaf import check_leaves, leaf, section


@section
class InspectConfig:
    """Stage inspect: what a release would cost and stop."""

    planned_files: int = leaf(
        0,
        "Tell which designs would give themselves away in a release of so many files. Makes as many NEs for each design and releases none. "
        "0: not told.",
        unit="files",
        least=0,
    )

    def __post_init__(self):
        check_leaves(self, "inspect.")


@section
class EvaluateConfig:
    """Stage evaluate: who can read the release."""

    curve_psnr_db: tuple[float, ...] = leaf(
        (0.0, 5.0, 10.0, 15.0, 20.0, 25.0), "Points of the strength curve. Empty: no curve.", unit="dB"
    )
    curve_images: int = leaf(500, "Images of each point of the curve.", unit="images", least=1)
    baseline_images: int = leaf(
        500, "guided and deep: images of the rows that they are compared with.", unit="images", least=1
    )

    def __post_init__(self):
        check_leaves(self, "evaluate.")


@section
class AttackConfig:
    """Stage attack: who can read the release after an attack."""

    suite: str = leaf(
        "quick",
        "full: more parameters, and every reader is trained for itself. none: no attack.",
        choices=("quick", "full", "none"),
    )
    only: tuple[str, ...] = leaf(
        (),
        "Names of attacks, as in attacks.jsonl, or curves, which tell what more files give. Empty: all.",
        unit="attacks",
    )
    images: int = leaf(64, "Images that are attacked and reported, the first of the release.", unit="images", least=1)
    own_images: int = leaf(32, "Images that the attacker chooses parameters on.", unit="images", least=1)
    releases: int = leaf(
        128,
        "Released images that the attacker learns from, with the clean ones or labels where an attack has them.",
        unit="images",
        least=1,
    )
    public: int = leaf(128, "Clean images of the same source that the attacker has.", unit="images", least=1)
    other: str = leaf("", "Folder of another release of the same pictures.", unit="a path", path=True)
    external: str = leaf(
        "", "JSON lines of stronger attacks by others, with the fields of attacks.jsonl.", unit="a path", path=True
    )

    def __post_init__(self):
        check_leaves(self, "attack.")


@section
class ReportConfig:
    """Stage report."""

    pictures: int = leaf(6, "Images shown.", unit="images", least=1)

    def __post_init__(self):
        check_leaves(self, "report.")
