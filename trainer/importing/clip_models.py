"""The image tower of an open_clip model."""

from __future__ import annotations

import open_clip
from torch import Tensor, nn

from cxrsearch.errors import InputError, UsageError
from cxrsearch.imaging.resizing import Resizing
from cxrsearch.model_card import InputFormat
from cxrsearch.text import nearest
from trainer.importing.source import HUBS, LoadedEncoder, side, triple
from trainer.importing.weights import load_weights
from trainer.learning.pretrained import licence

_RESIZING = {"shortest": Resizing.CROP, "longest": Resizing.PAD, "squash": Resizing.STRETCH}


class _ImageTower(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.visual: nn.Module = model.visual  # type: ignore[assignment]

    def forward(self, images: Tensor) -> Tensor:
        found = self.visual(images)
        made: Tensor = found[0] if isinstance(found, tuple) else found  # CoCa gives its tokens too
        return made


def load_clip(name: str, weights: str | None) -> LoadedEncoder:
    """``NAME:TAG``, ``NAME`` with a file of weights, or an address of a hub. Raises UsageError, InputError."""
    if name.startswith(HUBS):
        model, backbone = open_clip.create_model(name, weights_only=True), name
    else:
        name, _, tag = name.partition(":")
        if name not in open_clip.list_models():
            raise InputError(f"open_clip:{name}: open_clip has no such model.{nearest(name, open_clip.list_models())}")
        if not (tag or weights):
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
            raise UsageError(f"open_clip:{name}: give a tag, open_clip:{name}:TAG ({tags}), or --weights FILE")
        loads = bool(tag) and not weights
        model = open_clip.create_model(
            name, tag if loads else None, require_pretrained=loads, load_weights=loads, weights_only=True
        )
        backbone = f"open_clip {name}{f', {tag}' if loads else ''}"
    if weights is not None:
        load_weights(model, weights)
    own = model.visual.preprocess_cfg
    resizing = _RESIZING[own.get("resize_mode") or "shortest"]
    taken = InputFormat(3, side(own["size"]), 0.0, 1.0, triple(own["mean"]), triple(own["std"]), resizing)
    return LoadedEncoder(_ImageTower(model).eval(), taken, backbone, licence(weights))
