"""What a compressed stream says of itself, looked at before it is decoded.

A small header may hold a stream of a huge image, and two decoders give half an image for half a stream.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

# A radiograph has one scan for each component, a progressive one some ten; thousands are an attack on the decoder.
MAX_SCANS = 64
_JPEG_2000 = b"\xff\x4f\xff\x51"  # SOC, then SIZ (ISO 15444-1 A.4.1, A.5.1)
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}  # TEM, RSTn, SOI (ISO 10918-1 B.1.1.3)


@dataclass(frozen=True)
class Codestream:
    """rows, columns: of the image in it. bits: of a sample. signed: whether samples are, None where the format does not
    say."""

    rows: int
    columns: int
    bits: int
    signed: bool | None = None


def describe(stream: bytes) -> Codestream | None:
    """None for what is neither JPEG, JPEG-LS nor JPEG 2000. Raises ValueError for a cut or a hostile stream."""
    if stream[:2] == b"\xff\xd8":
        return _jpeg(stream)
    if stream[:4] == _JPEG_2000 or stream[4:8] == b"jP  ":
        return _jpeg_2000(stream)
    return None


def _jpeg_2000(stream: bytes) -> Codestream:
    """Every codestream in it, as a JP2 file may hold several (ISO 15444-1 I.5.4), has to say the same."""
    found, at = set(), stream.find(_JPEG_2000)
    while at >= 0:
        width, height, left, top = struct.unpack(">4I", stream[at + 8 : at + 24])
        depth = stream[at + 42]
        found.add(Codestream(height - top, width - left, (depth & 0x7F) + 1, bool(depth & 0x80)))
        at = stream.find(_JPEG_2000, at + 4)
    if len(found) != 1:
        raise ValueError("no JPEG 2000 codestream, or several of different sizes")
    return found.pop()


def _jpeg(stream: bytes) -> Codestream:
    """From the frame header of a JPEG (ISO 10918-1 B.2.2) or JPEG-LS stream."""
    found, at = None, 2
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            raise ValueError("JPEG marker expected")
        marker = stream[at + 1]
        if marker == 0xFF or marker in _WITHOUT_LENGTH:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0xDA:  # the first scan; what follows is coded
            break
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            bits, rows, columns = struct.unpack(">BHH", stream[at + 4 : at + 9])
            if found is not None:
                raise ValueError("JPEG stream with two frames")
            found = Codestream(rows, columns, bits)
        at += 2 + struct.unpack(">H", stream[at + 2 : at + 4])[0]
    if found is None:
        raise ValueError("JPEG stream without a frame")
    # In coded data FF is followed by 00 (B.1.1.5; in JPEG-LS by a bit 0), so these are markers.
    if stream.rfind(b"\xff\xd9") < at:
        raise ValueError("JPEG stream without an end")
    if stream.count(b"\xff\xda") > MAX_SCANS:
        raise ValueError("JPEG stream of too many scans")
    return found
