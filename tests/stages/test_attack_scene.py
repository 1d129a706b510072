"""What an attacker finds beside the release: the same pictures in another artefact, and near copies by the owner's records."""

import numpy as np
from PIL import Image

from ne_jax.stages import attack_scene
from tests.jobs import encode_into, opened, rows


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


def test_the_other_artefact_lies_beside_picture_by_picture(tmp_path):
    """Of all files, and of those under attack in their order: what one job released as float32 and as png8."""
    leaves = {
        "release.formats": ("float32", "png8"),
        "data.limit": 9,
        "readers": ("vit_a",),
        "attack.images": 3,
        "attack.own_images": 2,
    }
    encode_into(tmp_path, "run", **leaves)
    with opened(tmp_path, "run", **leaves) as job:
        scene = attack_scene.scene_of(job, "png8", [job.authorized], curves=False)
        png, other = rows(job, "png8"), rows(job, "float32")
    names = list(png)
    first, second = scene.knowledge.other
    for found, kept in ((first, png), (second, other)):
        np.testing.assert_array_equal(found, np.stack([kept[name] for name in names]))
    attacked = len(scene.reported.stored) + len(scene.own.stored)
    np.testing.assert_array_equal(scene.knowledge.beside, second[:attacked])
    np.testing.assert_array_equal(scene.reported.stored, first[: len(scene.reported.stored)])
    assert scene.knowledge.copies is None and len(scene.more) == 1
