"""What stage verify found of a release: a record for programs, and the same in plain words."""

from __future__ import annotations

import itertools

from ne_jax.files import Record
from ne_jax.release.certificates import Percentiles, SetCertificate, StoredStatistics, kept_in_words
from ne_jax.release.diagnosis import Everywhere
from ne_jax.release.manifest import MANIFEST
from ne_jax.release.reasons import Reason, words

_SHOWN = 50  # broken files that are listed


class Execution(Record, kw_only=True):
    """What the model makes of the files that are as released, None without any; beside it what the manifest claims, if it does."""

    model: str
    stored: StoredStatistics | None
    claimed: SetCertificate | None


class Standing(Record, kw_only=True):
    """certificates: of the owner, images. stand: those whose bound and prediction held, and still do. close: predictions that changed
    and were too close to call on other hardware."""

    certificates: int
    stand: int
    close: int


class Verdict(Record, kw_only=True):
    """What was found of a release.

    files: of SHA256SUMS. as_released: how many of them have their hash. broken: by relative path, every surplus file among them.
    everywhere: what happened to nearly all image files, if it is one thing. images: read from files as released. private: of the owner's
    certificates, if they were given. notes: lines to know.
    """

    files: int
    as_released: int
    broken: dict[str, Reason]
    everywhere: Everywhere | None
    images: int
    execution: Execution
    private: Standing | None
    notes: list[str]

    @property
    def holds(self) -> bool:
        """Whether nothing is broken."""
        return not self.broken


def describe(found: Verdict) -> str:
    """In plain words: what was done to the release, each broken file, the figures, and "holds" or "BROKEN"."""
    lines = [_everywhere(found.everywhere)] if found.everywhere else []
    lines += [f"{path}: {words(found.broken[path])}" for path in itertools.islice(found.broken, _SHOWN)]
    lines += [f"... and {len(found.broken) - _SHOWN:,} more"] * (len(found.broken) > _SHOWN) + found.notes
    lines.append(f"files: {found.as_released:,} of {found.files:,} as released (SHA-256)")
    lines += _figures(found.execution, found.images)
    if found.private:
        lines.append(f"certificates: {found.private.stand:,} of {found.private.certificates:,} stand")
    lines.append(f"the release {'holds' if found.holds else 'is BROKEN'}")
    # Names may hold line breaks, and bytes that are no text.
    return "\n".join(line if line.isprintable() else ascii(line) for line in lines)


def _everywhere(found: Everywhere) -> str:
    who = "every image file" if found.count == found.files else f"{found.count:,} of {found.files:,} image files"
    done = "this was done to the release as a whole: use the files as they were released"
    return f"{who}: {words(found.reason)}; {done}"


def _figures(execution: Execution, images: int) -> list[str]:
    stored = execution.stored.to_json() if execution.stored else {}
    claimed = execution.claimed.stored.to_json() if execution.claimed else {}
    lines = []
    for key, values in stored.items():
        beside = f"; {MANIFEST} says {_told(claimed[key])}" if key in claimed else ""
        lines.append(f"{execution.model} on {images:,} images: 5, 50, 95 % of {key} {_told(values)}{beside}")
    return lines + ([f"the owner claims: {kept_in_words(execution.claimed)}"] if execution.claimed else [])


def _told(percentiles: Percentiles) -> str:
    return ", ".join(f"{value:.4g}" for value in percentiles)
