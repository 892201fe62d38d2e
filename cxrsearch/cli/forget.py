"""cxrsearch forget: delete a patient from an index."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from cxrsearch.cli.options import Index


def forget(
    patient: Annotated[
        str, typer.Argument(metavar="PATIENT", help="The pseudonym that search prints, or the real identifier.")
    ],
    index: Index,
) -> None:
    """Delete all images of a patient from an index.

    Example: cxrsearch forget MZXW6YTBOI2DKNRX --index chest
    """
    from cxrsearch import settings
    from cxrsearch.clinical.expression import Equals
    from cxrsearch.clinical.identity import forgotten, load_identity
    from cxrsearch.errors import InputError
    from cxrsearch.store import open_store

    with open_store(index, write=True) as store:
        names = [patient]
        identity = load_identity(settings.key_file())
        if identity is not None:
            names += sorted({identity.patient(d.namespace, patient) for d in store.facts.datasets.values()})
        known = Equals("patient", tuple(names))
        found = {str(p.payload["patient"]) for p in store.scroll(known, fields=["patient"])}
        if not found:
            # The identifier is not repeated: it may be a real one, and messages end up in logs.
            raise InputError("no image of this patient is in the index. Give the pseudonym that search shows.")
        # Remembered first: a run that is killed here can be repeated, and indexing leaves the patient out already.
        more = store.facts.forgotten | {forgotten(name) for name in found}
        store.declare(replace(store.facts, forgotten=more))
        deleted = store.erase(known)
    print(f"deleted {deleted} image{'s' if deleted > 1 else ''}; indexing again leaves this patient out (--again)")
