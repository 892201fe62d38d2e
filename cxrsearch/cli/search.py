"""cxrsearch search: the radiographs of an index most like these."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cxrsearch.cli.options import Index, Model, Output, Where
from cxrsearch.report.rows import Format


def search(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE...", help="DICOM, PNG, JPEG, ... files; - reads paths from stdin.")
    ],
    index: Index,
    where: Where = None,
    limit: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many hits.")] = 10,
    vote: Annotated[
        str | None, typer.Option("--vote", metavar="FIELD", help="Count the hits' values of this field.")
    ] = None,
    predict: Annotated[
        Path | None,
        typer.Option("--predict", metavar="FILE.json", help="Apply a model of cxrsearch transfer --save to IMAGE."),
    ] = None,
    same_patient: Annotated[
        bool, typer.Option("--same-patient", help="Do not leave out the image itself and its patient's other images.")
    ] = False,
    model: Model = None,
    format: Output = Format.TABLE,
) -> int:
    """Find the radiographs of an index most like IMAGE, with what is known of those patients.

    Example: cxrsearch search scan.dcm --index chest --where 'site = "Daegu"' --vote outcome
    """
    from cxrsearch import cohort, settings
    from cxrsearch import search as searching
    from cxrsearch import vote as voting
    from cxrsearch.encoder import DEFAULT_MODEL, Encoder, read_card
    from cxrsearch.errors import ImageError
    from cxrsearch.identity import load_identity
    from cxrsearch.prediction import Predictor
    from cxrsearch.report import hits
    from cxrsearch.store import open_store
    from cxrsearch.where import parse

    paths = [line.rstrip("\r\n") for name in images for line in (sys.stdin if name == "-" else [name])]
    folder = model or DEFAULT_MODEL
    with open_store(index) as store:
        card = read_card(folder)
        store.facts.check_model(card.name, card.fingerprint)
        fields = store.facts.all_fields
        expression = parse(where, fields, store) if where is not None else None
        if vote is not None:
            cohort.check_fields([vote], fields, "--vote")
        predictor = Predictor(predict) if predict is not None else None
        if predictor is not None:
            predictor.check_model(card.name, card.fingerprint)
        encoder, identity = Encoder(folder), load_identity(settings.key_file())
        results, failed = [], 0
        for path in filter(None, paths):
            try:
                results += searching.search([Path(path)], store, encoder, identity, expression, limit, same_patient)
            except ImageError as error:
                if len(paths) == 1:
                    raise
                print(f"cxrsearch: {error}", file=sys.stderr)
                failed += 1
        votes = [voting.count(result.hits, vote) for result in results] if vote is not None else []
        said = [predictor.predict(result.query.embedding) for result in results] if predictor is not None else []
        hits.write(results, votes, said, fields, format, sys.stdout)
    return 3 if failed else 0
