"""Made-up records of stages inspect, evaluate and attack, one of each kind; tests change what they are about."""

from msgspec.structs import replace

from ne_jax.measure.records import Attacked, Growth, Result
from ne_jax.stages.inspect_model import FormatRow, Inspection, ReaderRow

# One format with two readers: of the same images, and of others without a head.
INSPECTED = Inspection(
    authorized="a", architecture="vit", checkpoint_sha256="0" * 64, image_shape=(8, 8, 3), window=(4, 4, 3), whole="a patch",
    patch_numbers=48, outputs=40, exact_null_directions=8, directions_by_threshold={"0.01": 8}, rule="relative", threshold=0.01,
    directions=8, largest_relative_sigma=0.0, image_energy_in_subspace=0.25, best_linear_white_box_reconstruction_db=None,
    strongest_psnr_db_for_1_percent_gap=None, recommended_design="guided", sample=4, singular_value_places=[1, 48],
    singular_values=[1.0, 0.0],
    formats={
        "png8": FormatRow(
            design="boxed", psnr_db_asked=0.0, psnr_db_median=6.24, psnr_db_strongest=5.0, psnr_db_weakest=7.0,
            readers={
                "a": ReaderRow(noise_to_signal=0.5, gain_over_isotropic=0.01, agreement=0.75, feature_cosine=0.9),
                "b": ReaderRow(feature_cosine=0.25),
            },
        )
    },
)  # fmt: skip
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
