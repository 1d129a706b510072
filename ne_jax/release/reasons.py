"""Why a file of a release is not what was released. A `Reason` is made where the fault is found, and worded where it is printed."""

from __future__ import annotations

from typing import Any

from ne_jax.files import Record

_SHOWN = 3  # images of a file that are named
# What follows a file's name; a reason's detail fills the blanks.
WORDS = {
    # The file itself
    "missing": "is missing",
    "empty": "is empty",
    "unreadable": "cannot be read ({0})",
    "surplus": "is not part of the release: no line of {0}",
    "more surplus": "holds more files that are not part of the release; these are the first {0:,}",
    # What is not opened
    "outside": "is no plain path to a file of the release, and is not opened",
    "a link": "is a link or lies behind one, and is not followed: put the file itself there, as by cp -rL",
    "no file": "is {0} and no file",
    "too large": "has more than {0:,} bytes, the most that such a file can have",
    "too much": "is not read: the files together have more than {0:,} bytes, the most that {1:,} images can have",
    "hollow": "is not read: it is large, and nearly all of it is a hole that takes no disk",
    # Its content
    "cut short": "is cut short",
    "no npz": "is cut short, or no npz file",
    "no tar": "is cut short, or no tar file",
    "no array_record": "is no array_record file",
    "no whole file": "is no whole file of its own, such as a link or a sparse file",
    "too many": "holds more than the {0:,} images that the release has",
    "too long a list": "has a longer list of its content than can be",
    "unpacks": "unpacks to more than {0:,} bytes at once",
    "not finite": "holds numbers that are not finite",
    "no image": "is no image",
    "broken": "is broken ({0})",
    "another type": "is a {0} file now, and not a PNG",
    "resized": "was resized: {0} x {1} and not {2} x {3}",
    "recoloured": "is {0} now, and not {1}",
    "other arrays": "holds images of another kind: {0} {1} and not {2} {3}",
    # It opens, with other bytes
    "differs": "is not the file that was released",
    "another file": "is the file that was released as {0}",
    "changed": "its pixels changed",
    "noise gone": "its pixels changed: noise in the authorized model's blind directions is largely gone, as after a resize, blur or JPEG",
    "unclear": "other bytes: its pixels changed, or the same picture was stored anew; --private would tell",
    "same picture": "same picture, other bytes (re-compressed without loss, or metadata changed)",
    "same pictures": "the same {0} pictures, or others are missing, other bytes (re-compressed without loss, or metadata changed)",
    "no metadata": "is no metadata of TensorFlow Datasets ({0})",
    "other metadata": "tells of {0} and not {1}",
    # The list of hashes
    "other sums": "is not the one that {0} names, so that what it says of other files proves nothing",
    "no sums": "cannot be used, so that no file is proved ({0})",
    "bad signature": "is no signature of {0} as it is: one of the two was changed",
    # An image, against model and certificate
    "no answer": "image {0} makes the model give numbers that are not finite",
    "uncertified": "image {0} has no line in {1}",
    "other pixels": "image {0} has not the pixels that were certified, or --private is of another run",
    "other class": "image {0} is of class {1} to the model, and was certified as {2}",
    "other margin": "image {0} has a margin of {1:.4g}, and was certified with {2:.4g}",
    # The manifest, against files and model
    "other number": "says {0} images, the files hold {1}",
    "in no file": "{0:,} certified images are in no file, the first: {1}",
    "other count": "its certificate says {0} {1:.6g}, counted anew it is {2:.6g}",
    "other figures": "its certificate says {0} {1[0]:.4g}, {1[1]:.4g}, {1[2]:.4g}, and the model gives {2[0]:.4g}, {2[1]:.4g}, "
    "{2[2]:.4g}: it was edited, or this machine computes otherwise",
    "no certificate": "its certificate is not as --stage=check writes it ({0})",
}  # fmt: skip


class Reason(Record, frozen=True, omit_defaults=True):
    """Why a file is not what was released.

    kind: of WORDS. detail: what fills the kind's blanks, the same in all files that one thing was done to.
    contradicts: the file that says otherwise of this one, whose own bytes are as released.
    Of this file alone: own, what fills the blanks instead; member, of a tar, the one that is so; changed, the images that are so,
    of `images` that are in the file; more, its other faults.
    """

    kind: str
    detail: tuple[Any, ...] = ()
    contradicts: str = ""
    own: tuple[Any, ...] = ()
    member: str = ""
    changed: tuple[str, ...] = ()
    images: int = 0
    more: tuple[Reason, ...] = ()

    def alike(self) -> Reason:
        """Without what is true of this file alone: equal for files that one thing was done to."""
        return Reason(self.kind, self.detail, self.contradicts)


DIFFERS = Reason("differs")  # until `diagnosis.explain` has looked at the file


class Unreadable(Exception):
    """A file of a release does not open as what was written."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def words(reason: Reason) -> str:
    """What is told after the file's name: "is empty"."""
    text = WORDS[reason.kind].format(*(reason.own or reason.detail))
    if reason.member:
        text = f"has a member {reason.member} that {text}"
    if reason.contradicts:
        text = f"is as released, but not what {reason.contradicts} says: it {text}"
    if reason.changed:
        shown, rest = ", ".join(reason.changed[:_SHOWN]), ", ..." * (len(reason.changed) > _SHOWN)
        text = f"{text}, in {len(reason.changed)} of {reason.images} images: {shown}{rest}"
    return "; ".join([text, *map(words, reason.more)])
