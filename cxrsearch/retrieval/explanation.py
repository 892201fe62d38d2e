"""Why a hit is a hit: its score as a sum over the places of the query, and of the hit.

The similarity of a query q and a hit h is sum_p q_p . h over the query's places p, and sum_r q . h_r over the hit's
places r (imaging/places.py). Nothing is approximated, no gradient is taken. A place sees more of the image than its own
square, though: what the network's layers let it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrsearch.encoder import Encoder
from cxrsearch.imaging.places import Parts, Shares, Sized, parts, shares
from cxrsearch.imaging.regions import WHOLE, Region
from cxrsearch.retrieval.search import Query
from cxrsearch.store.images import HitImage

# A hit is called one of the border when more than this part of its score comes from there. The border is 23 % of a
# picture's area.
MOSTLY = 0.5


@dataclass(frozen=True)
class Explanation:
    """Maps (h, w) float32 over the canonical square of the query and of the hit. Each adds up to the score; ``query``
    to the query's own part of it where there were examples beside it.

    ``original``: the hit's map is of the file that was indexed; of a thumbnail it adds up to about the score.
    shares: None where the score is not above zero.
    """

    query: NDArray[np.float32]
    hit: NDArray[np.float32]
    query_shares: Shares | None
    hit_shares: Shares | None
    original: bool

    @property
    def border(self) -> float:
        """The larger of the border's two shares: 0 where neither is known."""
        return max(
            (shares.border for shares in (self.query_shares, self.hit_shares) if shares is not None), default=0.0
        )


def explanations(
    query: Query, hit_images: Sequence[HitImage | None], encoder: Encoder, region: Region = WHOLE
) -> list[Explanation | None]:
    """One per hit; None where its image is not here, and for every hit of a model that gives no places. ``region``: the
    part of the query that was searched by."""
    found: list[Explanation | None] = []
    if query.parts is None or query.image is None:
        return [None] * len(hit_images)
    for image in hit_images:
        if image is None:
            found.append(None)
            continue
        own = parts(encoder.encode([image.canonical]).places[0], image, region)
        found.append(explain(query.parts, query.image.radiograph, query.direction, own, image, image.original))
    return found


def explain(
    query: Parts, pictured: Sized, direction: NDArray[np.float32], hit: Parts, image: Sized, original: bool
) -> Explanation:
    """``direction``: (D,), what was compared with the hit: the sum of ``query`` unless examples were beside it."""
    of_query = np.einsum("dyx,d->yx", query.places, hit.total)
    of_hit = np.einsum("dyx,d->yx", hit.places, direction)
    return Explanation(of_query, of_hit, shares(of_query, pictured), shares(of_hit, image), original)


def border_warnings(explanations: Sequence[Explanation | None]) -> list[str]:
    """One line for each hit that is mostly border, by rank."""
    return [
        f"hit {rank}: {one.border:.0%} of this score comes from the image's border: annotations, edges or"
        " positioning, not lungs"
        for rank, one in enumerate(explanations, start=1)
        if one is not None and one.border > MOSTLY
    ]
