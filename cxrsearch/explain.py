"""Why a hit is a hit: its score as a sum over the places of the query, and of the hit.

An embedding is the sum of its places (encoder.py), so the similarity of a query q and a hit h, their scalar product,
is sum_p q_p . h over the query's places p, and sum_r q . h_r over the hit's places r. Nothing is approximated, no
gradient is taken. A place sees more of the image than its own square, though: what the network's layers let it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from cxrsearch.regions import INSIDE_BORDER, LUNGS, WHOLE, Region, cover

if TYPE_CHECKING:
    from cxrsearch.encoder import Encoder
    from cxrsearch.pictures import Seen
    from cxrsearch.search import Query

# A hit is called one of the border when more than this part of its score comes from there. The border is 23 % of a
# picture's area.
MOSTLY = 0.5


class Sized(Protocol):
    """What has the size of a picture in pixels, before it was made canonical."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...


@dataclass(frozen=True)
class Parts:
    """What is compared of one image, place by place: (D, h, w) float32."""

    places: NDArray[np.float32]

    @property
    def total(self) -> NDArray[np.float32]:
        """(D,) float32; of unit length where this is what was compared."""
        return np.asarray(self.places.sum(axis=(1, 2)), dtype=np.float32)


@dataclass(frozen=True)
class Shares:
    """Where a score comes from, as parts of it that add up to one; a place that counts against may make one negative.

    border: the outer sixteenth of each side and the padding; lungs: the central region in which frontal radiographs
    show the lungs, as far as it is not border; between: the rest.
    """

    border: float
    lungs: float
    between: float


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


def parts(places: NDArray[np.float32], image: Sized, region: Region = WHOLE) -> Parts:
    """The places of an image, or of a region of it brought to unit length. ``places``: (D, h, w), of sum length 1."""
    if region == WHOLE:
        return Parts(places)
    inside = places * cover(region, image.width, image.height, places.shape[1:])
    length = float(np.linalg.norm(inside.sum(axis=(1, 2))))
    return Parts(np.asarray(inside / max(length, 1e-12), dtype=np.float32))


def explanations(
    query: Query, looked: Sequence[Seen | None], encoder: Encoder, region: Region = WHOLE
) -> list[Explanation | None]:
    """One per hit that was ``looked`` at; None where its picture is not here. ``region``: that was searched by."""
    found: list[Explanation | None] = []
    for seen in looked:
        if seen is None:
            found.append(None)
            continue
        own = parts(encoder.encode([seen.canonical]).places[0], seen, region)
        found.append(explain(query.parts, query.asked.image, query.direction, own, seen, seen.original))
    return found


def explain(query: Parts, asked: Sized, direction: NDArray[np.float32], hit: Parts, image: Sized,
            original: bool) -> Explanation:  # fmt: skip
    """``direction``: (D,), what was compared with the hit: the sum of ``query`` unless examples were beside it."""
    of_query = np.einsum("dyx,d->yx", query.places, hit.total)
    of_hit = np.einsum("dyx,d->yx", hit.places, direction)
    return Explanation(of_query, of_hit, shares(of_query, asked), shares(of_hit, image), original)


def shares(values: NDArray[np.float32], image: Sized) -> Shares | None:
    """Of a map over the canonical square of an image."""
    total = float(values.sum())
    if total <= 0:
        return None
    grid: tuple[int, int] = values.shape
    inside, lungs = (
        float((values * cover(region, image.width, image.height, grid)).sum()) / total
        for region in (INSIDE_BORDER, LUNGS)
    )
    return Shares(border=1 - inside, lungs=lungs, between=inside - lungs)


def warnings(explanations: Sequence[Explanation | None]) -> list[str]:
    """One line for each hit that is mostly border, by rank."""
    return [
        f"hit {rank}: {one.border:.0%} of this score comes from the image's border: letters, edges or positioning, not"
        " lungs"
        for rank, one in enumerate(explanations, start=1)
        if one is not None and one.border > MOSTLY
    ]
