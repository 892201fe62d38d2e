"""cxrsearch search: find similar radiographs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cxrsearch.cli.complete import field_names
from cxrsearch.cli.logging_options import LOGGER
from cxrsearch.cli.options import AnyBodyPart, Index, Model, Output, Where
from cxrsearch.report.rows import Format


def search(
    ctx: typer.Context,
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="Image files (DICOM, PNG, JPEG, ...), or - to read paths from stdin."),
    ],
    index: Index,
    where: Where = None,
    limit: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many similar images to show.")] = 10,
    region: Annotated[
        str | None,
        typer.Option(
            "--region", metavar="X0,Y0,X1,Y1", help="Compare only this part; 0,0 is top left, 1,1 bottom right."
        ),
    ] = None,
    like: Annotated[
        list[Path] | None, typer.Option("--like", metavar="IMAGE", help="Prefer images like this one; repeatable.")
    ] = None,
    unlike: Annotated[
        list[Path] | None, typer.Option("--unlike", metavar="IMAGE", help="Avoid images like this one; repeatable.")
    ] = None,
    vote: Annotated[
        str | None,
        typer.Option(
            "--vote", metavar="FIELD", autocompletion=field_names, help="Estimate this field from the nearest patients."
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show how much of each score comes from the border and the lungs.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Show images in the terminal.")] = False,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE.html", help="Write an HTML page with images, maps and facts."),
    ] = None,
    predict: Annotated[
        Path | None,
        typer.Option("--predict", metavar="FILE.json", help="Apply a model that cxrsearch transfer saved."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="NAME", help="The dataset that IMAGE would belong to: whose patient number."),
    ] = None,
    any_body_part: AnyBodyPart = False,
    same_patient: Annotated[
        bool, typer.Option("--same-patient", help="Include the image itself and other images of its patient.")
    ] = False,
    model: Model = None,
    format: Output = Format.TABLE,
) -> int:
    """Find the radiographs most similar to IMAGE, and show what is known of those patients.

    Example: cxrsearch search scan.dcm --index chest --where 'site = "Daegu"' --vote outcome
    """
    import functools
    import logging

    from cxrsearch import settings
    from cxrsearch.clinical.identity import load_identity
    from cxrsearch.clinical.where import parse
    from cxrsearch.cohort import counts
    from cxrsearch.encoder import DEFAULT_MODEL, Encoder, read_card
    from cxrsearch.errors import ImageError, UsageError
    from cxrsearch.imaging import regions
    from cxrsearch.imaging.radiograph import DEFAULT_GATES, OPEN
    from cxrsearch.report import hits
    from cxrsearch.report import show as showing
    from cxrsearch.report.page import check_name
    from cxrsearch.retrieval import search as searching
    from cxrsearch.retrieval.answer import answer
    from cxrsearch.retrieval.prediction import Predictor
    from cxrsearch.store import open_store
    from cxrsearch.voting import vote as voting
    from cxrsearch.voting.calibration import Calibration

    log = logging.getLogger(LOGGER)
    if region is not None and (like or unlike):
        raise UsageError("--region goes with one image: leave --like and --unlike out")
    check_name(report, "--report")
    lines = [line.rstrip("\r\n") for name in images for line in (sys.stdin if name == "-" else [name])]
    paths = [line for line in lines if line.strip()]
    folder = model or DEFAULT_MODEL
    with open_store(index) as store:
        card = read_card(folder)
        store.facts.check_model(card.name, card.fingerprint)
        fields = store.facts.all_fields
        if vote is not None:
            counts.check_fields([vote], fields, "--vote")
            voting.check_field(fields[vote])
        part = regions.WHOLE if region is None else regions.parse(region)
        expression = parse(where, fields, store) if where is not None else None
        predictor = Predictor(predict) if predict is not None else None
        if predictor is not None:
            predictor.check_model(card.name, card.fingerprint)
        calibration = Calibration.from_json(store.facts.calibration)
        log.debug(f"opened {index}")
        encoder, identity = Encoder(folder), load_identity(settings.key_file())
        log.debug(f"loaded {card.name}")
        gates = OPEN if any_body_part else DEFAULT_GATES
        read = functools.partial(
            searching.read_query, store=store, encoder=encoder, identity=identity, dataset=dataset, gates=gates
        )
        liked, unliked = (tuple(one for path in given or () for one in read(path)) for given in (like, unlike))
        options = searching.SearchOptions(expression, limit, same_patient, part, liked, unliked)
        writer = hits.Writer(fields, calibration, format, explain, sys.stdout)
        with_images = explain or report is not None or (show and format is Format.TABLE)
        kept, failed = [], 0
        for path in paths:
            try:
                asked = read(Path(path))
            except ImageError as error:
                if len(paths) == 1:
                    raise
                log.warning(f"cxrsearch: {error}")
                failed += 1
                continue
            log.debug(f"read and embedded {path}")
            for image in asked:
                result = searching.search(image, store, encoder, options)
                log.debug(f"found {len(result.hits)} images")
                one = answer(result, store, encoder, options, calibration, with_images, vote, predictor)
                writer.write(one)
                if show and format is Format.TABLE:
                    showing.show(showing.answer_images(one), sys.stdout)
                if report is not None:
                    kept.append(one)
        writer.close()
        if report is not None:
            from cxrsearch.cli.command_line import command_line
            from cxrsearch.report import search_page

            size = search_page.write(report, kept, store, card, options, calibration, command_line(ctx))
            log.debug(f"wrote {report}, {size / 2**20:.1f} MiB")
            if format is Format.TABLE:
                print(f"report: {report}")
    return 3 if failed else 0
