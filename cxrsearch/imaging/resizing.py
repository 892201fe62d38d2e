"""How a radiograph becomes square; apart from canonical.py, as commands name it before numpy is loaded."""

from __future__ import annotations

from enum import StrEnum


class Resizing(StrEnum):
    """pad: whole, with black beside it; crop: its middle, without what lies beyond the shorter side; stretch: whole,
    its aspect changed."""

    PAD = "pad"
    CROP = "crop"
    STRETCH = "stretch"
