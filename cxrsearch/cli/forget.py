"""cxrsearch forget: delete a patient from an index."""

from __future__ import annotations

from typing import Annotated

import typer

from cxrsearch.cli.options import Index


def forget(
    patient: Annotated[
        str, typer.Argument(metavar="PATIENT", help="A pseudonym as search prints it, or the real identifier.")
    ],
    index: Index,
) -> None:
    """Delete every image of a patient from an index, saying how many.

    Example: cxrsearch forget MZXW6YTBOI2DKNRX --index chest
    """
    from cxrsearch import settings
    from cxrsearch.errors import InputError
    from cxrsearch.identity import load_identity
    from cxrsearch.store import open_store
    from cxrsearch.where import Equals

    with open_store(index, write=True) as store:
        names = [patient]
        identity = load_identity(settings.key_file())
        if identity is not None:
            names += sorted({identity.patient(d.namespace, patient) for d in store.facts.datasets.values()})
        deleted = store.delete(Equals("patient", tuple(names)))
        if not deleted:
            # The identifier is not repeated: it may be a real one, and messages end up in logs.
            raise InputError("no image of this patient is in the index. Give the pseudonym that search shows.")
    print(f"deleted {deleted} image{'s' if deleted > 1 else ''}")
