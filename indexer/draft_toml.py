"""A draft -> the text of a dataset TOML, with comments for those who check it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrsearch.clinical.fields import FieldType
from cxrsearch.text import tidy
from indexer.column_values import MISSING
from indexer.draft import Draft, DraftedField, relative, rows_text

if TYPE_CHECKING:
    from tomlkit.items import Table

# Of a patient column whose numbers a spreadsheet or a data frame wrote with decimals: 4711 of 4711.0. What was
# written as 1E+05 has lost digits, and matches not.
_WHOLE_NUMBER = r"^(\d+)(?:[.,]0+)?$"


def text_of(drafted: Draft, images: Path, folder: Path) -> str:
    """The TOML, for a file in ``folder``."""
    import tomlkit

    document = tomlkit.document()
    document.add(_comment(f"Drafted by cxrsearch init from {drafted.table.name}. Check each line."))
    document.add(_comment("What every key means: docs/reference/mapping.md"))
    document.add("name", tomlkit.item(drafted.name))
    document.add(tomlkit.nl())
    document.add("images", _images(drafted, images, folder))
    for key, column in (("patient", drafted.patient), ("study", drafted.study)):
        if column is not None:
            document.add(key, _identifier(drafted, key, column))
    fields = tomlkit.table(is_super_table=True)
    for one in drafted.fields:
        fields.add(one.name, _field(one, drafted.decimal))
    if drafted.fields:
        document.add("fields", fields)
    if drafted.left_out:
        document.add(_comment("Left out of the index:"))
        for column, why in drafted.left_out.items():
            document.add(_comment(f"- {column}: {why}"))
        document.add(tomlkit.nl())
    if drafted.hashed:
        privacy = tomlkit.table()
        privacy.add(_comment("names of files hold the patient's number or name, so tokens stand for them in the index"))
        privacy.add("paths", "hashed")
        document.add("privacy", privacy)
    return tomlkit.dumps(document).replace("\n\n\n", "\n\n")


def _images(drafted: Draft, images: Path, folder: Path) -> Table:
    import tomlkit

    matching, dialect = drafted.matching, drafted.detected.dialect
    table = tomlkit.table()
    table.add("root", relative(images, folder))
    table.add("table", relative(drafted.table, images))
    encoding = {} if dialect.encoding == "utf-8-sig" else {"encoding": dialect.encoding}
    given = {"sheet": dialect.sheet, "separator": dialect.separator, "skip": dialect.skip or None, **encoding}
    if dialect.quote != '"':
        given["quote"] = dialect.quote
    given |= {"decimal": drafted.decimal, "between": matching.between, "several": matching.several or None}
    for key, value in given.items():
        if value is not None:
            table.add(key, value)
    if drafted.detected.guessed:
        table["encoding"] = _commented(table["encoding"], "the likeliest; look whether letters with accents are right")
    rows = len(drafted.rows.rows)
    templates: Any = matching.templates[0] if len(matching.templates) == 1 else matching.templates
    table.add("path", templates)
    table["path"].comment(f"{len(matching.found)} of {rows} rows name {matching.files} of {drafted.images} images")
    if matching.ambiguous:
        table.add(_comment(f"{matching.ambiguous} rows name several files, in several folders or of several endings"))
    table.add(tomlkit.nl())
    return table


def _identifier(drafted: Draft, key: str, column: str) -> Table:
    import tomlkit

    table = tomlkit.table()
    table.add("column", column)
    if key == "patient":
        known, scientific = drafted.numbers
        table["column"].comment(f"{known} of {len(drafted.rows.rows)} rows have one; kept as a keyed pseudonym only")
        texts = [tidy(line.cells[column]) for line in drafted.rows.rows]
        if any(text.replace(",", ".").endswith(".0") for text in texts) or scientific:
            table.add("pattern", _WHOLE_NUMBER)
        if scientific:
            table.add(_comment(f"{scientific} cells are written as 1E+05 is, have lost digits, and are not known"))
        words = sorted({text for text in texts if text.casefold() in MISSING})
        if words:
            table.add("missing", words)
    table.add(tomlkit.nl())
    return table


def _field(one: DraftedField, decimal: str | None) -> Table:
    import tomlkit

    reading, table = one.reading, tomlkit.table()
    table.add("column", one.column)
    table.add("type", str(reading.type))
    table["type"].comment(_evidence(one))
    number = reading.type in (FieldType.INTEGER, FieldType.FLOAT)
    # None: a point and no groups, which a table with a decimal comma has to be told.
    mark = (reading.decimal or ".") if number and reading.decimal != decimal and decimal is not None else None
    given = {"formats": reading.formats, "decimal": mark, "pattern": reading.pattern, "unit": reading.unit,
             "separator": reading.separator, "missing": reading.missing}  # fmt: skip
    for key, value in given.items():
        if value:
            table.add(key, value)
    if reading.values:
        values = tomlkit.inline_table()
        values.update(reading.values)
        table.add("values", values)
    if reading.unreadable:
        table.add("unreadable", "missing")
        cells = len(reading.unreadable)
        table["unreadable"].comment(f'{cells} cells: {rows_text(reading.unreadable)}; "error" refuses them')
    if one.later:
        table.add("later", _commented(True, "known only after the image was taken"))
    for note in reading.notes:
        table.add(_comment(note))
    table.add(tomlkit.nl())
    return table


def _evidence(one: DraftedField) -> str:
    reading = one.reading
    read = reading.known - len(reading.unreadable)
    what = {
        FieldType.DATE: f"dates ({' or '.join(reading.formats)})",
        FieldType.INTEGER: "whole numbers",
        FieldType.FLOAT: "numbers",
        FieldType.BOOLEAN: "yes or no",
        FieldType.KEYWORD: "words, several to a cell" if reading.separator else "words",
    }[reading.type]
    return f"{read} of {reading.known} cells that are not blank read as {what}"


def _commented(value: Any, comment: str) -> Any:
    """A value with a comment on its line."""
    import tomlkit
    from tomlkit.items import Bool

    item = Bool(value, tomlkit.items.Trivia()) if isinstance(value, bool) else tomlkit.item(value)
    return item.comment(comment)


def _comment(text: str) -> Any:
    import tomlkit

    return tomlkit.comment(tidy(text))
