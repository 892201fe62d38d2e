"""Hits as HTML for a notebook: no script, no network, every text escaped."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cxrsearch.clinical.fields import Field
from cxrsearch.imaging.canonical import grey
from cxrsearch.report import page
from cxrsearch.report.columns import choose
from cxrsearch.report.rows import text_of
from cxrsearch.retrieval.answer import Answer

# Pixels of a picture: ten of them fit a screen.
_SIDE = 160
_FACTS = 6


def hits_html(answer: Answer, fields: Mapping[str, Field]) -> str:
    """The query and its hits side by side, warnings above them. Pictures of hits only where the answer has them."""
    query = answer.result.query
    names = [*choose(fields, [hit.payload for hit in answer.result.hits])[:_FACTS], "path"]
    cards = [
        {
            "title": f"{hit.rank}: {hit.score:.4f}",
            "picture": None if seen is None else page.jpeg_uri(np.asarray(seen.shown), _SIDE),
            "facts": [(name, text_of(hit.payload[name])) for name in names if name in hit.payload],
        }
        for hit, seen in zip(answer.result.hits, answer.hit_images, strict=True)
    ]
    if (image := query.image) is None:
        return page.render("notebook", side=_SIDE, text=query.name, warnings=answer.warnings, cards=cards)
    picture = page.jpeg_uri(np.asarray(grey(image.radiograph, _SIDE)), _SIDE)
    first = {"title": "query", "picture": picture, "facts": [("file", image.path.name)]}
    return page.render("notebook", side=_SIDE, text=None, warnings=answer.warnings, cards=[first, *cards])
