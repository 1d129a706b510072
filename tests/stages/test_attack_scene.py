"""What an attacker finds beside the release: near copies in it, by the owner's records."""

import numpy as np
from PIL import Image

from ne_jax.stages import attack_scene
from tests.jobs import encode_into, rows


def test_near_copies_come_pair_by_pair(tmp_path):
    """A picture and the same one saved again lie beside each other; a release without such pictures has none."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        picture = Image.effect_mandelbrot((160, 160), (-2, -1.5, 1 - 0.4 * number, 1.5 - 0.3 * number), 60)
        picture.save(folder / f"{number}.png")
        if number:
            picture.save(folder / f"{number} again.jpg", quality=60)
    leaves = {"release.formats": ("png8",), "data.kind": "folder", "data.path": str(folder), "data.limit": 0}
    job = encode_into(tmp_path, "run", **leaves)
    first, second = attack_scene._copies(job, "png8")
    stored = rows(job, "png8")
    for number in (1, 2):
        pair = [stored[f"{number} again"], stored[f"{number}"]]
        found = [[one, other] for one, other in zip(first, second, strict=True)]
        assert any(np.array_equal(pair, each) or np.array_equal(pair[::-1], each) for each in found)
    assert len(first) == len(second) == 2
    assert attack_scene._copies(encode_into(tmp_path, "none", **{"release.formats": ("png8",)}), "png8") is None
