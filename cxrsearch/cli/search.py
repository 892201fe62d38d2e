"""cxrsearch search: find similar radiographs."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from cxrsearch.cli.complete import field_names
from cxrsearch.cli.logging_options import LOGGER
from cxrsearch.cli.options import AnyBodyPart, Fields, Index, Model, Output, Where, shown_fields
from cxrsearch.report.rows import Format

log = logging.getLogger(LOGGER)


def search(
    ctx: typer.Context,
    index: Index,
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE...", help="Image files (DICOM, PNG, JPEG, ...), or - to read paths from stdin."),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            "--text", metavar="TEXT", help="Look for this in place of an image, where the model has a text encoder."
        ),
    ] = None,
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
    shown: Fields = None,
    model: Model = None,
    format: Output = Format.TABLE,
) -> int:
    """Find the radiographs most similar to IMAGE, and show what is known of those patients.

    Example: cxrsearch search scan.dcm --index chest --where 'site = "Daegu"' --vote outcome
    """
    if bool(images) == (text is not None):
        raise typer.BadParameter("give IMAGE or --text, one of the two", param_hint="IMAGE...")
    if text is not None and (dataset is not None or any_body_part):
        raise typer.BadParameter("goes with IMAGE, not with --text", param_hint="--dataset, --any-body-part")
    images = images or []
    if images:
        from cxrsearch.imaging import isolated

        isolated.prepare(Path(images[0]))  # it starts while the model and the index are opened

    from cxrsearch.archive import Question, open_archive
    from cxrsearch.cli.command_line import command_line
    from cxrsearch.errors import ImageError
    from cxrsearch.report import hits, page
    from cxrsearch.report import show as showing

    page.check_name(report, "--report")
    lines = [line.rstrip("\r\n") for name in images for line in (sys.stdin if name == "-" else [name])]
    paths = [Path(line) for line in lines if line.strip()]
    in_table = format is Format.TABLE
    with_images = explain or report is not None or (show and in_table)
    question = Question(
        where, limit, region, like or (), unlike or (), same_patient, vote, predict, with_images, explain, text
    )
    with open_archive(index, model, any_body_part, dataset) as archive:
        search = archive.ask(question)
        named = shown_fields(ctx, shown, archive.fields)
        writer = hits.Writer(
            archive.fields, archive.calibration, format, explain, sys.stdout, named, archive.store.facts.datasets
        )
        kept, failed = [], 0
        for path in paths if text is None else [None]:
            try:
                queries = archive.read(path) if path is not None else [None]
            except ImageError as error:
                if len(paths) == 1:
                    raise
                log.warning(f"cxrsearch: {error}")
                failed += 1
                continue
            for answer in map(search.answer, queries):
                writer.write(answer)
                if show and in_table:
                    showing.show(showing.answer_images(answer), sys.stdout)
                if report is not None:
                    kept.append(answer)
        writer.close()
        if report is not None:
            from cxrsearch.report import search_page

            size = search_page.write(
                report, kept, archive.store, archive.card, search.options, archive.calibration, command_line(ctx)
            )
            log.debug(f"wrote {report}, {size / 2**20:.1f} MiB")
            if in_table:
                print(f"report: {report}")
    return 3 if failed else 0
