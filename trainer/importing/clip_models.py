"""The image tower of an open_clip model, and its text tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
from torch import Tensor, nn
from transformers import dynamic_module_utils

from cxrsearch.errors import InputError, UsageError
from cxrsearch.imaging.resizing import Resizing
from cxrsearch.model_card import InputFormat
from cxrsearch.text import nearest
from trainer.importing.clip_text import load_clip_text
from trainer.importing.failures import failure
from trainer.importing.source import HUBS, LOCAL, LoadedEncoder, side, triple
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
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # seconds to ask whether code may run: it may not
    tag = ""
    if not name.startswith(HUBS):
        name, _, tag = name.partition(":")
        if name not in open_clip.list_models():
            raise InputError(f"open_clip:{name}: open_clip has no such model.{nearest(name, open_clip.list_models())}")
        if not (tag or weights):
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
            raise UsageError(f"open_clip:{name}: give a tag, open_clip:{name}:TAG ({tags}), or --weights FILE")
    model = open_clip.create_model(
        name,
        tag if tag and weights is None else None,
        require_pretrained=weights is None,  # else what cannot be loaded stays random
        load_weights=weights is None,
        pretrained_text=False,
        weights_only=True,
        **_own_text_model(name),
    )
    if weights is not None:
        load_weights(model, weights)
    own = model.visual.preprocess_cfg
    resizing = _RESIZING[own.get("resize_mode") or "shortest"]
    taken = InputFormat(3, side(own["size"]), 0.0, 1.0, triple(own["mean"]), triple(own["std"]), resizing)
    backbone = name if name.startswith(HUBS) else f"open_clip {name}{f', {tag}' if weights is None else ''}"
    image = _ImageTower(model).eval()
    model.visual = nn.Identity()  # else the text encoder's file would hold it too
    try:
        return LoadedEncoder(image, taken, backbone, licence(weights), load_clip_text(model, name))
    except Exception as error:  # open_clip, transformers and the hubs raise whatever went wrong; images need no text
        return LoadedEncoder(image, taken, backbone, licence(weights), without_text=failure(error))


def _own_text_model(name: str) -> dict[str, Any]:
    """A saved folder that has the settings of its text model beside its own, so that no hub need be asked for them."""
    folder = Path(name.removeprefix(LOCAL))
    if not name.startswith(LOCAL) or not (folder / "config.json").is_file():
        return {}
    text = dict(open_clip.get_model_config(name)["text_cfg"])
    return (
        {"text_cfg": text | {"hf_model_name": str(folder), "hf_model_pretrained": False}}
        if text.get("hf_model_name")
        else {}
    )
