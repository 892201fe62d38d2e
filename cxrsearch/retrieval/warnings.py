"""What a reader of hits has to be warned of, one line each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cxrsearch.clinical.expression import Expression
from cxrsearch.clinical.fields import FieldType, values_of
from cxrsearch.cohort.counts import denials
from cxrsearch.imaging.canonical import filled
from cxrsearch.imaging.perceptual_hash import BITS, NEAR, bits_between, crop_hashes
from cxrsearch.imaging.radiograph import projection
from cxrsearch.retrieval.explanation import Explanation, border_warnings
from cxrsearch.retrieval.search import Hit, QueryImage, Result
from cxrsearch.statistics import surprising
from cxrsearch.store.contract import VectorStore
from cxrsearch.store.images import StoredImages
from cxrsearch.text_encoder import EncodedText

# A picture of fewer pixels on its shorter side shows too little.
SMALL = 128
# Fewer hits than this of one site are no wonder.
_ENOUGH = 5
# Hits that are compared as possible copies of the query: a copy is never far down.
_COMPARED = 3


def warnings_about(
    result: Result,
    store: VectorStore,
    where: Expression | None,
    explanations: Sequence[Explanation | None] = (),
) -> list[str]:
    """Every warning about a query and its hits."""
    query = result.query
    found = [*query.left_out.notes, *_one_value(result.hits, store, where)]
    if query.text is not None:
        return [*_of_text(query.text), *found, *denials(store, where)]
    assert query.image is not None
    found += [*_views(query.image, result.hits), *_copies(query.image, result.hits, store)]
    if (side := min(query.image.radiograph.width, query.image.radiograph.height)) < SMALL:
        found.append(f"the query is only {side} pixels wide or high: too few to show a lung")
    if result.unseen:
        found.append(f"{result.unseen} of the hits have no image here: the region was not compared with theirs")
    if result.originals:
        found.append(
            f"the region of {result.originals} hits was read from the original, as they have no thumbnail: such scores"
            " differ a little from those of an index with thumbnails"
        )
    return found + denials(store, where) + border_warnings(explanations)


def _of_text(text: EncodedText) -> list[str]:
    found = ["scores of a text are not those of two images, which are higher: compare them with each other alone"]
    if text.tokens > text.context:
        left = text.tokens - text.context
        found.insert(0, f"the model reads {text.context} tokens: the last {left} of {text.tokens} were not read")
    return found


def _views(query: QueryImage, hits: Sequence[Hit]) -> list[str]:
    own = query.projection
    views = [_projection(hit) for hit in hits]
    other = {"lateral": "frontal", "frontal": "lateral"}.get(own or "")
    number = views.count(other) if other else 0
    if not number:
        return []
    return [f"the query is a {own} view and {number} of its {len(views)} hits are {other} ones"]


def _one_value(hits: Sequence[Hit], store: VectorStore, where: Expression | None) -> list[str]:
    """Hits that are all of one site or one view, while the cohort has others."""
    found = []
    for name in ("site", "view"):
        field = store.facts.fields.get(name)
        if field is None or field.type is not FieldType.KEYWORD:
            continue
        counts = Counter(str(value) for hit in hits for value in values_of(hit.payload, name))
        if len(counts) != 1:
            continue
        ((value, number),) = counts.items()
        if number < _ENOUGH:  # before the index is asked: of a server it is one request more
            continue
        in_cohort = store.values(name, where)
        share = in_cohort[value] / sum(in_cohort.values())
        if surprising(share, number):
            found.append(
                f"all {number} hits with a known {name} are of one: {value}, which has {share:.0%} of the cohort's"
                " images; they may be alike in how they were made"
            )
    return found


def _copies(query: QueryImage, hits: Sequence[Hit], store: VectorStore) -> list[str]:
    images, found = StoredImages(store), []
    own = crop_hashes(filled(query.canonical, query.radiograph.width, query.radiograph.height))
    for hit in hits[:_COMPARED]:
        image = images.hit_image(hit.id, hit.payload, len(query.canonical), quick=True)
        if image is None:
            continue
        if (bits := bits_between(own, crop_hashes(filled(image.canonical, image.width, image.height)))) <= NEAR:
            found.append(
                f"hit {hit.rank} is nearly the same picture as the query ({bits} of {BITS} bits differ): perhaps one"
                " patient under two names, or a published copy"
            )
    return found


def _projection(hit: Hit) -> str | None:
    known = hit.payload.get("projection")
    return str(known) if known is not None else projection(str(hit.payload.get("view", "")))
