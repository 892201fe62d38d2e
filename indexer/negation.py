"""Which words of a note are affirmed: "no effusion, consolidation on the right" affirms consolidation, not effusion.

NegEx (Chapman et al., Journal of Biomedical Informatics 2001) by negspaCy, over sentences of English found by their
punctuation. Every word is asked about, when its image is indexed, so that ``mentions`` filters inside the engine. How
often it is right: ``python -m benchmarks.negation``.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import TYPE_CHECKING, Any, cast

from cxrsearch.clinical.expression import WORD
from cxrsearch.clinical.fields import Value

if TYPE_CHECKING:
    from spacy.tokens import Doc

# Part of what a row's fingerprint is made of: another number has notes read again.
VERSION = 2
# Beyond the clinical terms that negspaCy has. What has resolved is denied, what improves or is unchanged is not; and
# what is not excluded, or has not resolved, is affirmed.
_MORE = {
    "pseudo_negations": [
        *("cannot exclude", "cannot be excluded", "can not be excluded", "not excluded", "cannot rule out"),
        *("cannot be ruled out", "not resolved", "no resolution of", "no evidence of resolution", "no clearing of"),
        *(
            "no change in",
            "without change",
            "without significant change",
            "no improvement",
            "no decrease",
            "no progression",
        ),
        *("partial resolution", "incomplete resolution", "high resolution", "no doubt", "not without"),
    ],
    "preceding_negations": [
        *("neither", "nor", "free of", "absence of", "negative for", "no longer"),
        *("resolution of", "disappearance of", "clearance of", "clearing of"),
    ],
    "following_negations": [
        *("absent", "is absent", "are absent", "not seen", "not visible", "not recognizable", "not identified"),
        *("not detected", "not present", "no longer", "ruled out", "is excluded", "was excluded", "were excluded"),
        *("resolved", "has resolved", "have resolved", "had resolved", "subsided", "disappeared", "were negative"),
        *("was negative", "is negative", "are negative"),
    ],
    "termination": [";", ":"],
}
# Characters of a note that are read; a record may be a book.
_LONGEST = 20_000


def installed() -> bool:
    """Whether notes can be read: negspaCy comes with cxrsearch[notes]."""
    return importlib.util.find_spec("negspacy") is not None


def affirmed(note: Value) -> Value:
    """The words of a note, or of each of several, that it affirms, in their order, and nothing else."""
    if isinstance(note, list):
        return [str(affirmed(part)) for part in note]
    text = str(note)[:_LONGEST]
    denied = {at for part in _reader()(text).ents if part._.negex for at in range(part.start_char, part.end_char)}
    # Whole words, as a search asks for them: spaCy makes two of "5mm" and of "cannot".
    return " ".join(word[0] for word in WORD.finditer(text) if denied.isdisjoint(range(*word.span())))


@functools.cache
def _reader() -> Any:
    import spacy
    from negspacy import termsets
    from negspacy.negation import Negex  # noqa: F401  # registers itself with spaCy
    from spacy.language import Language
    from spacy.tokens import Span

    @Language.component("every_word")
    def every_word(document: Doc) -> Doc:
        """Each word is something that may be denied."""
        document.ents = [
            Span(document, word.i, word.i + 1, label="WORD")
            for word in document
            if any(letter.isalnum() for letter in word.text)
        ]
        return document

    reader = spacy.blank("en")
    reader.add_pipe("sentencizer")
    reader.add_pipe("every_word")
    terms: Any = cast(Any, termsets).termset("en_clinical")
    terms.add_patterns(_MORE)
    reader.add_pipe("negex", config={"neg_termset": terms.get_patterns()})
    return reader
