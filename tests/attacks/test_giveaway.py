"""From how many files on a release gives itself away: to readers that lost something, else by the pictures."""

import numpy as np
import pytest
from msgspec.structs import replace

from ne_jax.attacks.giveaway import (
    Attackable,
    at_files,
    first_to_give_away,
    foretold,
    gives_away,
    most_regained,
    regained,
)
from ne_jax.attacks.moments import growing
from ne_jax.core.linear_estimate import cut
from ne_jax.measure.giveaway import AtFiles, Regained
from tests.releases import PSNR_DB, SHAPE, WINDOW, clean, crops, known

PLAIN = {"a": 0.1, "relative": 0.95}


def point(files, agreement, share=0.0):
    readers = {} if agreement is None else {"a": Regained(agreement=agreement, attack="x")}
    return AtFiles(files=files, readers=readers, rebuilt_db=None, share=share, attack=None)


def test_half_of_what_a_reader_lost_is_the_line():
    """Readers that lost nothing do not count, the pictures only where no reader does."""
    assert regained(0.1, 0.55) == pytest.approx(0.5) and regained(0.95, 1.0) is None
    assert gives_away(point(4, 0.56), PLAIN) and not gives_away(point(4, 0.54, share=0.9), PLAIN)
    relative = replace(point(4, 0.2), readers={"relative": Regained(agreement=1.0, attack="x")})
    assert not gives_away(relative, PLAIN) and gives_away(replace(relative, share=0.6), PLAIN)
    assert gives_away(point(4, None, share=0.5), {}) and not gives_away(point(4, None, share=0.4), {})
    assert most_regained({"a": 0.1, "b": 0.3}, {"a": 0.5, "b": 0.6}) == "a" and most_regained({}, {}) is None


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_the_first_is_found_in_few_looks(count):
    """Wherever it is; and that there is none, by the last alone."""
    for first in range(count + 1):
        asked = []

        def look(place, first=first, asked=asked):
            asked.append(place)
            return point(4**place, 0.9 if place >= first else 0.1)

        away, points = first_to_give_away(count, look, PLAIN)
        assert (away and away.files) == (4**first if first < count else None)
        assert len(asked) == len(set(asked)) <= 1 + count.bit_length()
        assert [each.files for each in points] == sorted(4**place for place in asked)
    assert len(first_to_give_away(count, lambda place: point(4**place, 0.1), PLAIN, least=3)[1]) == min(3, count)


def test_what_was_planned_is_measured_or_carried_on():
    """Where as many files were simulated the value is theirs."""
    seen = [point(64, 0.2), point(256, 0.6), point(1024, 0.8)]
    measured, ahead = (foretold(seen, PLAIN, files, 64) for files in (1024, 10_000))
    assert measured.keys() == ahead.keys() == {"a"}
    assert (measured["a"].how, measured["a"].value) == ("simulated", 0.8)
    assert ahead["a"].how == "extrapolated" and 0.8 <= ahead["a"].value <= 1


def noisy(make_layer, fresh: int):
    """Pictures with white noise in a subspace, and moments of `fresh` files, the same pictures again and again."""
    space, generator = known(make_layer)[1].space, np.random.default_rng(5)
    basis, images = np.asarray(space.basis), np.tile(clean(), (-(-fresh // len(clean())), 1, 1, 1))
    white = generator.standard_normal((*cut(images, WINDOW).shape[:2], basis.shape[1])).astype(np.float32)
    noise = white @ basis.T
    noise *= 3 * 10 ** (-PSNR_DB / 20) / np.sqrt(np.mean(noise**2))
    rows, columns = SHAPE[0] // WINDOW[0], SHAPE[1] // WINDOW[1]
    stored = images + noise.reshape(-1, rows, columns, *WINDOW).transpose(0, 1, 3, 2, 4, 5).reshape(images.shape)
    scene = Attackable(stored[: len(clean())], clean(), crops(0, 20, 2), [], WINDOW)
    return scene, growing(iter([stored]), WINDOW, [fresh])[0]


def test_white_noise_gives_pictures_away_at_many_files_and_not_at_one(make_layer):
    """Without readers: by the share of the pictures' variance that the best attack rebuilds."""
    few, many = (at_files(*noisy(make_layer, files)) for files in (1, 48))
    assert gives_away(many, {}) and many.share > 0.9 and many.rebuilt_db > 20 and many.attack is not None
    assert not gives_away(few, {}) and few.files == 1
