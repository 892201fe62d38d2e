"""What a compressed stream says of itself, looked at before it is decoded.

A small header may hold a stream of a huge image, and decoders give an image for half a stream without a word.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A radiograph has one scan for each component, a progressive one some ten; thousands are an attack on the decoder.
MAX_SCANS = 64
# Luminance, two of color, and alpha or black.
MAX_COMPONENTS = 4
_JPEG_2000 = b"\xff\x4f\xff\x51"  # SOC, then SIZ (ISO 15444-1 A.4.1, A.5.1)
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}  # TEM, RSTn (ISO 10918-1 B.1.1.3)
_PROGRESSIVE, _LOSSLESS, _JPEG_LS = 0xC2, 0xC3, 0xF7
_FRAMES = {0xC0, 0xC1, _PROGRESSIVE, _LOSSLESS, _JPEG_LS}
# In coded data FF is followed by 00 (B.1.1.5), in JPEG-LS by a bit 0 (ISO 14495-1 A.1), or it begins a marker.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_MARKER_LS = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
# No marker in it, and nothing that a decoder could take for the end of a picture.
_MORE = bytes((37 * number + 11) % 255 for number in range(255))


@dataclass(frozen=True)
class Codestream:
    """rows, columns: of the image in it. bits: of a sample. signed: whether samples are, None where the format does not
    say. components: samples of a pixel. end: where the end marker of a JPEG or JPEG-LS stream is."""

    rows: int
    columns: int
    bits: int
    signed: bool | None = None
    components: int = 1
    end: int = field(default=0, compare=False)


def describe(stream: bytes) -> Codestream | None:
    """None for what is neither JPEG, JPEG-LS nor JPEG 2000. Raises ValueError for a cut or a hostile stream."""
    if stream[:2] == b"\xff\xd8":
        return _jpeg(stream)
    if stream[:4] == _JPEG_2000 or stream[4:8] == b"jP  ":
        return _jpeg_2000(stream)
    return None


def check_whole(
    decoded: NDArray[Any], stream: bytes, coded: Codestream, decode: Callable[[bytes], NDArray[Any]]
) -> None:
    """Raises ValueError for a JPEG whose coded data ended before the image did, ``decoded`` from it all the same.

    A decoder that has what it needs never looks at what follows; one that has not decodes it too, into another image.
    """
    if not np.array_equal(decoded, decode(stream[: coded.end] + _MORE + b"\xff\xd9")):
        raise ValueError("JPEG stream cut short")


def _jpeg_2000(stream: bytes) -> Codestream:
    """Every codestream in it, as a JP2 file may hold several (ISO 15444-1 I.5.4), has to say the same."""
    found, at = set(), stream.find(_JPEG_2000)
    while at >= 0:
        right, bottom, left, top = struct.unpack(">4I", stream[at + 8 : at + 24])
        components = int.from_bytes(stream[at + 40 : at + 42], "big")
        depth = stream[at + 42]
        found.add(Codestream(bottom - top, right - left, (depth & 0x7F) + 1, bool(depth & 0x80), components))
        _check_tiles(stream, at)
        at = stream.find(_JPEG_2000, at + 4)
    if len(found) != 1:
        raise ValueError("no JPEG 2000 codestream, or several of different sizes")
    return found.pop()


def _check_tiles(stream: bytes, at: int) -> None:
    """Walks the tile-parts by their lengths (ISO 15444-1 A.4.2): every tile is there, and after the last its end."""
    right, bottom, _, _, wide, high, left, top = struct.unpack(">8I", stream[at + 8 : at + 40])
    if not wide or not high:
        raise ValueError("JPEG 2000 tiles without a size")
    tiles = -((left - right) // wide) * -((top - bottom) // high)
    at, found = at + 2, set()
    while stream[at : at + 2] != b"\xff\x90" and at + 4 <= len(stream):  # the main header
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    while stream[at : at + 2] == b"\xff\x90" and at + 12 <= len(stream):
        tile, length = struct.unpack(">HI", stream[at + 4 : at + 10])
        found.add(tile)
        # 0: up to the end marker, which is the last of the stream.
        at = at + length if length else stream.rfind(b"\xff\xd9")
        if length and length < 14:
            raise ValueError("JPEG 2000 tile-part without a length")
    if stream[at : at + 2] != b"\xff\xd9" or len(found) != tiles:
        raise ValueError("JPEG 2000 codestream cut short")


@dataclass
class _Progress:
    """What the scans of a JPEG have given. low: of each component, the lowest bit that came of each of 64 coefficients
    (G.1.1.1), 14 before any."""

    sampling: dict[int, tuple[int, int]]
    low: dict[int, list[int]] = field(default_factory=dict)
    interval: int = 0
    scans: int = 0


def _jpeg(stream: bytes) -> Codestream:
    """From the segments of a JPEG (ISO 10918-1 B.1, B.2) or JPEG-LS stream, up to its end marker."""
    kind, found, progress, at = 0, None, _Progress({}), 2
    while True:
        marker = stream[at + 1] if at + 2 <= len(stream) and stream[at] == 0xFF else None
        if marker is None:
            raise ValueError("JPEG marker expected")
        if marker == 0xD9:
            break
        if marker == 0xFF or marker in _WITHOUT_LENGTH:
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        segment = stream[at + 4 : at + 2 + length]
        if length < 2 or len(segment) != length - 2:
            raise ValueError("JPEG stream without an end")
        at += 2 + length
        if marker == _JPEG_LS or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            if found is not None or marker not in _FRAMES:
                raise ValueError("JPEG stream with two frames, or of a process that is not read")
            bits, rows, columns, components = struct.unpack(">BHHB", segment[:6])
            kind, found = marker, Codestream(rows, columns, bits, None, components)
            progress.sampling = {
                segment[n]: (segment[n + 1] >> 4, segment[n + 1] & 15) for n in range(6, length - 2, 3)
            }
        elif marker == 0xDD and length == 4:
            progress.interval = int.from_bytes(segment, "big")
        elif marker == 0xDA:
            if found is None:
                raise ValueError("JPEG stream without a frame")
            next_marker = (_MARKER_LS if kind == _JPEG_LS else _MARKER).search(stream, at)
            if next_marker is None:
                raise ValueError("JPEG stream without an end")
            _scan(progress, segment, kind, found, len(_RESTART.findall(stream, at, next_marker.start())))
            at = next_marker.start()
    if found is None or progress.low.keys() != progress.sampling.keys():
        raise ValueError("JPEG stream without a frame, or without the scan of a component")
    if kind == _PROGRESSIVE and any(bit > 0 for low in progress.low.values() for bit in low):
        raise ValueError("progressive JPEG stream whose last scans are missing")
    return Codestream(found.rows, found.columns, found.bits, None, found.components, at)


def _scan(progress: _Progress, header: bytes, kind: int, frame: Codestream, restarts: int) -> None:
    """Adds a scan by its header (B.2.3). Raises ValueError where it has fewer restart markers than its rows need."""
    progress.scans += 1
    if progress.scans > MAX_SCANS:
        raise ValueError("JPEG stream of too many scans")
    of, (start, end, bits) = list(header[1 : 1 + 2 * header[0] : 2]), header[1 + 2 * header[0] :][:3]
    for component in of:
        low = progress.low.setdefault(component, [14] * 64)
        low[start : end + 1] = [bits & 15] * (min(end, 63) + 1 - start)
    if progress.interval and kind != _JPEG_LS and set(of) <= progress.sampling.keys():
        # Units of a scan (A.2): of one component its own blocks, of several the largest sampling factors' together.
        across, down = (max(factors) for factors in zip(*progress.sampling.values(), strict=True))
        wide, high = progress.sampling[of[0]] if len(of) == 1 else (1, 1)
        unit = 1 if kind == _LOSSLESS else 8
        columns = -(-frame.columns * wide // (across * unit))
        rows = -(-frame.rows * high // (down * unit))
        if restarts < -(-columns * rows // progress.interval) - 1:
            raise ValueError("JPEG stream of fewer intervals than its image has")
