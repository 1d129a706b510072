"""A manifest's block with all that a release is proved by, and nothing else."""

from ne_jax.release.manifest import Facts, Named, Strength

FACTS = Facts(
    format="png8",
    images=3,
    authorized=Named(name="vit_a", architecture="vit_base_patch16_224", checkpoint_sha256="ab" * 32),
    image_shape=(6, 5, 3),
    window=(2, 1, 3),
    preprocess={"size": 6},
    directions=4,
    design="boxed",
    replace=False,
    psnr_db_realised=Strength(min=5.5, median=None, max=7.0),
)
