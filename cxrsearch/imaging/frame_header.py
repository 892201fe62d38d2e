"""What the header of a DICOM file says of one frame: its functional groups, else the top level (PS3.3 C.7.6.16)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # 0.3 s of import that a PNG does not need
    from pydicom.dataset import Dataset

# What says how tall a pixel is for its width, the first that is there.
SPACINGS = ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
# What a group that is there decides as a whole (PS3.3 C.7.6.16.2.10, .9 and .1).
_DECIDES = {
    "FrameVOILUTSequence": ("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    "PixelValueTransformationSequence": ("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"),
    "PixelMeasuresSequence": SPACINGS,
}


@dataclass(frozen=True)
class FrameHeader:
    """dataset: the whole file's. groups: by keyword, the item of a functional group that decides for this frame."""

    dataset: Dataset
    groups: Mapping[str, Dataset]

    def get(self, keyword: str) -> Any:
        """The value of an attribute for this frame; None when it is absent."""
        return self.groups.get(keyword, self.dataset).get(keyword)


def frame_header(dataset: Dataset, frame: int) -> FrameHeader:
    """What holds for a frame, from 0: the frame's own groups, else the shared ones, else the top level."""
    own = _items(dataset, "PerFrameFunctionalGroupsSequence")[frame : frame + 1]
    groups: dict[str, Dataset] = {}
    for group in [*_items(dataset, "SharedFunctionalGroupsSequence")[:1], *own]:
        for sequence, keywords in _DECIDES.items():
            item = next(iter(_items(group, sequence)), None)
            if item is not None and any(item.get(keyword) for keyword in keywords):  # files have empty ones
                groups |= dict.fromkeys(keywords, item)
    return FrameHeader(dataset, groups)


def _items(dataset: Dataset, sequence: str) -> list[Dataset]:
    """None of what is no sequence: a damaged header may have bytes there."""
    from pydicom.sequence import Sequence

    found = dataset.get(sequence)
    return list(found) if isinstance(found, Sequence) else []
