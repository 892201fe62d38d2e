"""A Hugging Face image model: its pooled output, or its first token where it pools nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoModel
from transformers.utils.hub import cached_file

from cxrsearch.errors import InputError, UsageError
from cxrsearch.imaging.resizing import Resizing
from cxrsearch.model_card import InputFormat
from trainer.importing.source import LoadedEncoder, side, triple

_HALF = (0.5, 0.5, 0.5)
# Where a model's README says its licence: in the facts at its head.
_LICENCE = re.compile(r"\A---\n(?:.*\n)*?license: *([\w.+-]{1,60})\n")
_HEAD = 10_000


class _Pooled(nn.Module):
    """Of a model of pictures and text, the image's features; else what the model pools itself."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._two_towers = hasattr(model, "vision_model") and hasattr(model, "get_image_features")

    def forward(self, images: Tensor) -> Tensor:
        model: Any = self.model
        found = model.get_image_features(pixel_values=images) if self._two_towers else model(pixel_values=images)
        if isinstance(found, Tensor):
            return found
        pooled = getattr(found, "pooler_output", None)
        made: Tensor = found.last_hidden_state[:, 0] if pooled is None else pooled
        return made.flatten(1)


def load_hugging_face(name: str, weights: str | None) -> LoadedEncoder:
    """An address of the hub or a saved folder, with its weights as safetensors. Raises UsageError, InputError."""
    if weights is not None:
        raise UsageError(f"hf:{name}: comes with its weights; --weights is for open_clip:, timm: and xrv:")
    if name.startswith((".", "/", "~")):
        name = str(Path(name).expanduser())
        if not Path(name).is_dir():
            raise InputError(f"hf:{name}: no such folder")
    # Eager attention is plain operators, which every ONNX Runtime has.
    model = AutoModel.from_pretrained(
        name, trust_remote_code=False, use_safetensors=True, attn_implementation="eager", dtype="float32"
    )
    settings = cached_file(name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    own: dict[str, Any] = json.loads(Path(settings).read_text("utf-8")) if settings else {}
    config = getattr(model.config, "vision_config", model.config)
    readme = cached_file(name, "README.md", _raise_exceptions_for_missing_entries=False)
    stated = _LICENCE.search(Path(readme).read_text("utf-8", errors="replace")[:_HEAD]) if readme else None
    backbone = f"Hugging Face {Path(name).name}"
    return LoadedEncoder(_Pooled(model).eval(), _input(own, config), backbone, stated[1] if stated else None)


def _input(own: dict[str, Any], config: Any) -> InputFormat:
    """own: preprocessor_config.json; empty where there is none, and the model's own size counts."""
    crops = bool(own.get("do_center_crop"))
    size = own.get("crop_size" if crops else "size") or getattr(config, "image_size", None) or 224
    stretched = isinstance(size, dict) and {"height", "width"} <= size.keys() and not crops
    if isinstance(size, dict):
        size = {key: value for key, value in size.items() if key in ("height", "width", "shortest_edge")}
    normal = own.get("do_normalize", bool(own))
    mean, deviation = own.get("image_mean") or _HALF, own.get("image_std") or _HALF
    high = 1.0 if own.get("do_rescale", True) else 255.0
    high *= float(own.get("rescale_factor", 1 / 255)) * 255 if own.get("do_rescale", True) else 1.0
    return InputFormat(
        3,
        side(size),
        0.0,
        high,
        triple(mean if normal else 0.0),
        triple(deviation if normal else 1.0),
        Resizing.STRETCH if stretched else Resizing.CROP,
    )
