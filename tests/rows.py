"""Made-up records of stages evaluate and attack, one of each kind; tests change what they are about."""

from msgspec.structs import replace

from ne_jax.measure.records import Attacked, Growth, Result

RESULT = Result(
    authorized="vit_a", reader="vit_b", condition="ne", release_format="png8", psnr_db=6.2, metric="accuracy", value=0.25, n=20,
    ci95=(0.11, 0.47),
)  # fmt: skip
ATTACKED = Attacked(
    authorized="vit_a", release_format="png8", psnr_db=6.2, reader="vit_b", condition="attacked", metric="accuracy", value=0.5,
    n=20, ci95=(0.3, 0.7), attack="jpeg", tier=1, parameters={"quality": 75}, value_ne=0.25, value_clean=0.75, recovery=0.5,
    value_control=0.75, damage_db=40.0, reconstruction_db=None, seconds=0.5, by="ne_jax",
)  # fmt: skip
GROWTH = Growth(
    attack="gevd_inpainting", tier=2, of="NEs released", count=4, reader="vit_b", metric="accuracy", value=0.5, n=20,
    ci95=(0.3, 0.7), reconstruction_db=9.5,
)  # fmt: skip


def attacked(value: float, **changes) -> Attacked:
    """ATTACKED with another value, which its interval holds, and other changes."""
    return replace(ATTACKED, value=value, **{"ci95": (value, value)} | changes)
