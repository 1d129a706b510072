"""What an ArrayRecord file says that it unpacks to, read from the heads of its chunks before its reader, which believes them, takes memory.

An ArrayRecord file is one of Riegeli's records: https://github.com/google/riegeli/blob/master/doc/riegeli_records_file_format.md
"""

from __future__ import annotations

import os
import struct
from io import BufferedIOBase

from ne_jax.release.blocks import Expected
from ne_jax.release.reasons import Reason, Unreadable

_BLOCK, _BLOCK_HEAD = 1 << 16, 24  # bytes: every block begins with a head, also within a chunk
_ROOM = _BLOCK - _BLOCK_HEAD
_CHUNK_HEAD = struct.Struct("<8xQ8xQQ")  # hash, bytes as stored, hash, kind and number of records, bytes unpacked
_KINDS = b"srp"  # signature, simple records, padding; ours has no other
_CHUNK_REST = 1 << 24  # bytes of a chunk beside an image, where another writer puts many small ones together
_ENTRY = 64  # bytes that the list at the end has of a chunk, at most
_MOST_CHUNKS = 1000  # beside one an image


def check(file: BufferedIOBase, expected: Expected) -> None:
    """Raise Unreadable for a file with a chunk that unpacks to more than such images can, or whose chunks do not follow each other to
    its end."""
    size, place, chunks = os.fstat(file.fileno()).st_size, 0, 0
    while place < size:
        stored, records, unpacked = _head(file, place)
        kind, records = records & 0xFF, records >> 8
        if kind not in _KINDS:
            raise Unreadable(Reason("no array_record"))
        most = max(2 * expected.image_bytes + _CHUNK_REST, _ENTRY * chunks)
        if unpacked > most or records > max(expected.most, chunks) + _MOST_CHUNKS:
            raise Unreadable(Reason("unpacks", (2 * expected.image_bytes + _CHUNK_REST,)))
        place = max(_after(place, _CHUNK_HEAD.size + stored), _boundary(place + records))
        chunks += 1
        if chunks > expected.most + _MOST_CHUNKS:
            expected.check(chunks)
    if place != size:
        raise Unreadable(Reason("cut short"))


def _head(file: BufferedIOBase, place: int) -> tuple[int, int, int]:
    """Of the chunk that begins at `place`, without the head of a block in the middle of it."""
    data = b""
    while len(data) < _CHUNK_HEAD.size:
        if place % _BLOCK == 0:
            place += _BLOCK_HEAD
        file.seek(place)
        more = file.read(min(_CHUNK_HEAD.size - len(data), _BLOCK - place % _BLOCK))
        if not more:
            raise Unreadable(Reason("cut short"))
        data, place = data + more, place + len(more)
    return _CHUNK_HEAD.unpack(data)


def _after(place: int, length: int) -> int:
    """Where so many bytes end that begin at `place`, with the heads of the blocks between."""
    heads = (length + (place + _ROOM - 1) % _BLOCK) // _ROOM
    return place + length + heads * _BLOCK_HEAD


def _boundary(place: int) -> int:
    """The first place from there on where a chunk may begin: not within a block's head."""
    return place + max(0, _BLOCK_HEAD - place % _BLOCK) if place % _BLOCK else place
