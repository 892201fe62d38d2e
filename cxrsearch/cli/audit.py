"""cxrsearch audit: find what is wrong with a dataset before training on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxrsearch.cli.options import Output
from cxrsearch.report.rows import Format


def audit(
    ctx: typer.Context,
    dataset: Annotated[
        list[str],
        typer.Argument(metavar="DATASET...", help="Dataset TOMLs, shipped mappings or folders of DICOM files."),
    ],
    root: Annotated[
        list[Path] | None,
        typer.Option("--root", metavar="DIR", help="The folder of the images; once for each DATASET."),
    ] = None,
    label: Annotated[str, typer.Option("--label", metavar="FIELD", help="The field to be learned.")] = "finding",
    site: Annotated[str, typer.Option("--site", metavar="FIELD", help="The field that names the hospital.")] = "site",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.html", help="Write an HTML page with images of the pairs.")
    ] = None,
    paths: Annotated[bool, typer.Option("--paths", help="Show file names, which may identify patients.")] = False,
    format: Output = Format.TABLE,
) -> int:
    """Check a dataset for duplicates, leaks between patients and shortcuts. Exit code 3 when a risk is found.

    Example: cxrsearch audit darkcovidnet --root ../shared/data/darkcovidnet --out audit.html
    """
    from cxrsearch.cli.command_line import command_line
    from cxrsearch.cli.training_output import needs_train_extra
    from cxrsearch.errors import UsageError
    from cxrsearch.report import page
    from cxrsearch.report.progress import Progress
    from cxrsearch.report.rows import write
    from indexer import dataset as datasets

    page.check_name(out, "--out")
    if root and len(root) != len(dataset):
        raise UsageError("give --root once for each DATASET, in the same order")
    with needs_train_extra("audit", "analysis"):
        from trainer.audit import audit as auditing
        from trainer.audit import page as audit_page

    sets = [datasets.load(name, root[number] if root else None) for number, name in enumerate(dataset)]
    with Progress("reading images") as progress:
        found = auditing.audit(sets, label, site, progress.reach)
    if out is not None:
        audit_page.write(out, found, command_line(ctx, paths), paths)
    whole = audit_page.as_json(found, paths)
    if format is Format.TABLE:
        print(f"{whole['images']} images; {found.unreadable} more cannot be read")
    cells = [{"": "RISK" if v.found else v.verdict, "risk": v.risk, "found": v.words} for v in found.risks]
    columns = ["", "risk", "found"] if format is Format.TABLE else ["risk", "found", "words"]
    write(whole["risks"], columns, format, cells=cells, whole=whole)
    if format is Format.TABLE and out is not None:
        print(f"page: {out}")
    return 3 if any(risk.found for risk in found.risks) else 0
