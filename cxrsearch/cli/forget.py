"""cxrsearch forget: delete a patient from an index."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Annotated

import typer

from cxrsearch.cli.logging_options import LOGGER
from cxrsearch.cli.options import Index


def forget(
    patient: Annotated[
        str, typer.Argument(metavar="PATIENT", help="The pseudonym that search prints, or the real identifier.")
    ],
    index: Index,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="NAME", help="The dataset whose patient it is, where an index has several."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would be deleted, and delete nothing.")
    ] = False,
) -> None:
    """Delete all images of a patient from an index.

    Example: cxrsearch forget MZXW6YTBOI2DKNRX --index chest
    """
    from cxrsearch import settings
    from cxrsearch.clinical.expression import Equals
    from cxrsearch.clinical.identity import load_identity
    from cxrsearch.errors import InputError, UsageError
    from cxrsearch.report.rows import text_of
    from cxrsearch.store import is_url, open_store
    from cxrsearch.store.contract import named_patients

    try:
        patient.encode()
    except UnicodeEncodeError:
        raise UsageError("PATIENT: no text in UTF-8. Give the pseudonym that search shows.") from None
    identity = load_identity(settings.key_file())
    if identity is None:
        raise InputError(f"{settings.key_file()}: no pseudonym key, without which nobody can be forgotten for good.")
    with open_store(index, write=not dry_run) as store:
        datasets = store.facts.datasets
        if dataset is not None and dataset not in datasets:
            raise UsageError(f"--dataset {dataset}: not in this index. Its datasets: {', '.join(datasets)}.")
        chosen = datasets if dataset is None else {dataset: datasets[dataset]}
        names = named_patients(patient, chosen, identity)
        known = Equals("patient", tuple(names))
        counts = store.values("dataset", known)
        found = set(store.values("patient", known))
        forgotten = {name for name in names if identity.forgotten(name) in store.facts.forgotten}
        if not found and not (forgotten and is_url(index)):  # of a server, what did not end is ended now
            # The identifier is not repeated: it may be a real one, and messages end up in logs.
            raise InputError("no image of this patient is in the index. Give the pseudonym that search shows.")
        listed = ", ".join(f"{text_of(name)} {number}" for name, number in counts.items())
        several = len({one.namespace for one in chosen.values()}) > 1
        if several and found and patient not in found:
            raise UsageError(
                f"images of patients of this number: {listed}. The index has the numbers of several hospitals: say"
                " whose patient it is with --dataset NAME, or give the pseudonym that search shows."
            )
        logging.getLogger(LOGGER).warning(f"images of this patient: {listed or 'none any more'}")
        if dry_run:
            print(f"dry run: {sum(counts.values())} images would be deleted")
            return
        more = store.facts.forgotten | {identity.forgotten(str(name)) for name in found}
        deleted = store.erase(known, replace(store.facts, forgotten=more))
        for sentence in store.remains():
            logging.getLogger(LOGGER).warning(sentence)
    print(f"deleted {deleted} image{'s' if deleted != 1 else ''}; indexing again leaves this patient out (--again)")
