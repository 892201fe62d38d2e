"""cxrsearch models: the encoders that are installed."""

from __future__ import annotations

from typing import Any

from cxrsearch.cli.options import Output
from cxrsearch.report.rows import Format


def models(format: Output = Format.TABLE) -> None:
    """List the installed models, with their results on held-out patients.

    Example: cxrsearch models
    """
    from cxrsearch.encoder import DEFAULT_MODEL, read_card
    from cxrsearch.report.rows import write

    rows: list[dict[str, Any]] = []
    for folder in sorted(path.parent for path in DEFAULT_MODEL.parent.glob("*/model.json")):
        card = read_card(folder)
        own = card.described.get("figures", {}).get("unseen", {}).get("the encoder", {})
        rows.append(
            {
                "name": card.name,
                "default": folder == DEFAULT_MODEL,
                "fingerprint": card.fingerprint[:12],
                "pixels": card.image_size,
                "dimensions": card.dimensions,
                "MB": round(sum(path.stat().st_size for path in folder.iterdir()) / 1e6, 1),
                "AUC": own.get("auc", own.get("macro_auc", [None]))[0],
                "mAP": own.get("map", [None])[0],
                "MAP@R": own.get("map_at_r", [None])[0],
                "trained on": list(card.described.get("trained_on", [])),
                "folder": str(folder),
            }
        )
    write(rows, list(rows[0]), format)
