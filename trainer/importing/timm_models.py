"""A timm model without its classifier: its pooled features."""

from __future__ import annotations

from typing import Any

import timm
from timm.data.config import resolve_model_data_config

from cxrsearch.errors import InputError
from cxrsearch.imaging.resizing import Resizing
from cxrsearch.model_card import InputFormat
from cxrsearch.text import nearest
from trainer.importing.source import LoadedEncoder, side, triple
from trainer.importing.weights import load_weights
from trainer.learning.pretrained import licence

_RESIZING = {"center": Resizing.CROP, "squash": Resizing.STRETCH, "border": Resizing.PAD}


def load_timm(name: str, weights: str | None) -> LoadedEncoder:
    """A timm name, its weights from the hub that timm knows, or from a file or package. Raises InputError."""
    if not name.startswith("hf-hub:") and not timm.is_model(name.partition(".")[0]):
        raise InputError(f"timm:{name}: timm has no such model.{nearest(name, timm.list_models())}")
    model = timm.create_model(name, pretrained=weights is None, num_classes=0)
    if weights is not None:
        load_weights(model, weights)
    own = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    resizing = _RESIZING.get(own.get("crop_mode", "center"), Resizing.CROP)
    channels, *sides = own["input_size"]
    mean, deviation = (triple(own[key])[:channels] for key in ("mean", "std"))
    taken = InputFormat(channels, side(sides), 0.0, 1.0, mean, deviation, resizing)
    stated: Any = model.pretrained_cfg  # empty where the model came without weights
    its_licence = licence(weights) if weights else (stated or {}).get("license")
    return LoadedEncoder(model.eval(), taken, f"timm {name}{f', {weights}' if weights else ''}", its_licence)
