"""The dataset TOML: its schema, and how a cell, a path or a DICOM value becomes a clinical fact.

Documented for its users in docs/reference/mapping.md. A misspelt key is an error, not a silent nothing.
"""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    field_validator,
    model_validator,
)
from pydantic import Field as Declared

from cxrsearch.clinical.fields import (
    SERIAL_DATES,
    SYSTEM_FIELDS,
    Field,
    FieldType,
    Scalar,
    Value,
    convert,
    valid_field_name,
    years,
)
from cxrsearch.clinical.identity import Numbering, part_of_path
from cxrsearch.clinical.pattern import check, part_of
from cxrsearch.text import nearest, tidy
from indexer.dialect import Dialect
from indexer.numbers import plain
from indexer.privacy import Privacy, identifying

Texts = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
# Words that are compared with cells, and names of columns: as cells are read.
Word = Annotated[str, AfterValidator(tidy)]
Words = Annotated[list[Word], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


_NUMBERS = (FieldType.INTEGER, FieldType.FLOAT)
Decimal = Literal[".", ","]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ValueSource(_Strict):
    """Where a value comes from: exactly one of ``column``, ``path``, ``dicom``, ``constant``."""

    column: Word | None = None
    path: Literal["stem", "folder", "full"] | None = None
    dicom: str | None = None
    constant: Scalar | None = None
    pattern: str | None = None
    missing: Words = []

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            check(pattern)
        return pattern

    @field_validator("dicom")
    @classmethod
    def _in_the_dictionary(cls, keyword: str | None) -> str | None:
        from pydicom.datadict import keyword_dict

        if keyword is not None and keyword not in keyword_dict:
            raise ValueError(f"DICOM has no keyword {keyword!r}.{nearest(keyword, keyword_dict)}")
        return keyword

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("column", "path", "dicom", "constant") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("needs exactly one of column, path, dicom, constant")
        return self

    def raw(self, row: Mapping[str, str], key: str, header: Mapping[str, str] | None) -> str | None:
        """The text before any conversion; None when the header that holds it is not read yet."""
        if self.column is not None:
            return row[self.column]
        if self.dicom is not None:
            return None if header is None else header.get(self.dicom, "")
        if self.path is not None:
            return part_of_path(key, self.path)
        return str(self.constant)

    def text(self, raw: str, missing: frozenset[str]) -> str | None:
        """The text that carries the value: cleaned, the pattern's first group taken; None when missing."""
        text = tidy(raw)
        if self.pattern is not None and self._known(text, missing):
            text = tidy(part_of(self.pattern, text))
        return text if self._known(text, missing) else None

    def unmatched(self, raw: str, missing: frozenset[str]) -> bool:
        """Whether there is a text, and nothing of it that the pattern takes."""
        return self.pattern is not None and self._known(tidy(raw), missing) and self.text(raw, missing) is None

    def _known(self, text: str, missing: frozenset[str]) -> bool:
        return text != "" and text not in missing and text not in self.missing


class Identifier(ValueSource):
    """A patient or study identifier. ``namespace`` tells apart equal numbers of different hospitals."""

    namespace: str | None = None

    def numbering(self, missing: Sequence[str]) -> Numbering:
        """How its texts are read; ``missing``: the dataset's own words for what is not known."""
        return Numbering(self.dicom, self.path, self.pattern, tuple(sorted({*missing, *self.missing})))


class FieldMapping(ValueSource):
    """A clinical field: its source and how the text becomes a value.

    decimal: the mark before decimals; groups of three digits are then read too. unit: shown beside values.
    unreadable: what a cell that is no value of the type is; "missing" ones are counted.
    """

    type: FieldType
    separator: Annotated[str, Declared(min_length=1)] | None = None
    decimal: Decimal | None = None
    unit: Annotated[Word, Declared(min_length=1, max_length=20)] | None = None
    unreadable: Literal["error", "missing"] = "error"
    values: dict[Word, Scalar] = {}
    formats: Texts = []
    present: Literal["number", "text"] | None = None
    later: bool = False
    language: Literal["en"] | None = None  # of a note: what it denies is read, for "mentions"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.present and self.type is not FieldType.BOOLEAN:
            raise ValueError("present needs type = 'boolean'")
        if self.formats and self.type is not FieldType.DATE:
            raise ValueError("formats needs type = 'date'")
        if self.language is not None and self.type is not FieldType.TEXT:
            raise ValueError("language needs type = 'text'")
        if self.decimal and self.type not in _NUMBERS:
            raise ValueError("decimal needs type = 'integer' or 'float'")
        if self.unit and self.type not in _NUMBERS:
            raise ValueError("unit needs type = 'integer' or 'float'")
        if self.separator is not None and self.type is FieldType.TEXT:
            raise ValueError("a text is one value; separator needs another type")
        return self

    @field_validator("formats")
    @classmethod
    def _formats(cls, formats: list[str]) -> list[str]:
        for pattern in (one for one in formats if one not in SERIAL_DATES):
            try:
                datetime.datetime.strptime(datetime.datetime(2020, 3, 31).strftime(pattern), pattern)
            except (ValueError, re.error) as error:
                raise ValueError(f"{pattern!r} is no date format: {error}") from None
        return formats

    @model_validator(mode="after")
    def _convertible(self) -> Self:
        """What the mapping itself writes down is a value of the type, before any file is looked at."""
        written = {f"values.{word}": value for word, value in self.values.items() if self.present is None}
        for key, value in written.items():
            try:
                convert(str(value), self.type, self.formats)
            except ValueError as error:
                raise ValueError(f"{key}: {str(value)!r} {error}") from None
        if self.constant is not None:
            try:
                self.value(str(self.constant), frozenset())
            except ValueError as error:
                raise ValueError(f"constant: {str(self.constant)!r} {error}") from None
        return self

    def value(self, raw: str, missing: frozenset[str]) -> Value | None:
        """The value in a raw text; None when missing. Raises ValueError for text that is no such value, and for a
        header's that the pattern does not take (a cell's is counted before the run)."""
        text = self.text(raw, missing)
        if self.present is not None:
            return self._is_present(text)
        if text is None:
            if self.dicom is not None and self.unmatched(raw, missing):
                raise ValueError("does not match the pattern")
            return None
        if self.separator is None:
            return self._scalar(text)
        # A separator may be a tab or a new line, which a tidy text has no more.
        whole = text if self.pattern is not None else unicodedata.normalize("NFC", raw)
        parts = map(tidy, whole.split(unicodedata.normalize("NFC", self.separator)))
        values = [self._scalar(part) for part in parts if self._known(part, missing)]
        return list(dict.fromkeys(values)) or None

    def unmatched(self, raw: str, missing: frozenset[str]) -> bool:
        return self.present is None and super().unmatched(raw, missing)

    def _is_present(self, text: str | None) -> bool:
        if text is None or self.present == "text":
            return text is not None
        try:
            convert(text, FieldType.FLOAT)
        except ValueError:
            return False
        return True

    def _scalar(self, text: str) -> Scalar:
        mapped = self.values.get(text)
        if mapped is None and self.dicom == "PatientAge" and self.type in _NUMBERS:
            age = years(text)
            return int(age) if self.type is FieldType.INTEGER else age
        if mapped is None and self.decimal is not None:
            text = plain(text, self.decimal)
        return convert(text if mapped is None else str(mapped), self.type, self.formats)


class ImageLocation(_Strict):
    """Where the images are: a table with path templates over its columns, or a glob.

    several: a template may match several files, which are all images of the row.
    between: what stands between the names in a cell that names several files.
    decimal: of all numbers of the table that do not say it themselves.
    """

    root: str = "."
    table: str | None = None
    sheet: str | None = None
    encoding: str = "utf-8-sig"
    separator: Annotated[str, Declared(min_length=1, max_length=1)] | None = None
    quote: Annotated[str, Declared(min_length=1, max_length=1)] = '"'
    skip: Annotated[int, Declared(ge=0, le=1000)] = 0
    decimal: Decimal | None = None
    path: Texts = []
    several: bool = False
    between: Annotated[str, Declared(min_length=1)] | None = None
    glob: Texts = []

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.table is None) != (not self.path) or (self.table is None) == (not self.glob):
            raise ValueError("needs either table and path, or glob")
        return self

    @field_validator("separator", "quote")
    @classmethod
    def _usable(cls, mark: str | None) -> str | None:
        if mark is not None and mark in "\r\n\0":
            raise ValueError("is no mark between cells")
        return mark

    @property
    def dialect(self) -> Dialect:
        return Dialect(self.encoding, self.separator, self.quote, self.sheet, self.skip)


class DatasetMapping(_Strict):
    """A whole dataset TOML."""

    name: str = Declared(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    images: ImageLocation
    missing: Words = []
    select: dict[Word, Words] = {}
    patient: Identifier | None = None
    study: Identifier | None = None
    fields: dict[str, FieldMapping] = {}
    privacy: Privacy = Privacy()

    @model_validator(mode="before")
    @classmethod
    def _with_decimal(cls, data: Any) -> Any:
        """Numbers of the table that do not say their decimal mark have that of [images]."""
        match data:
            case {"images": {"decimal": "." | "," as mark}, "fields": dict() as fields}:
                return {**data, "fields": {name: _marked(field, mark) for name, field in fields.items()}}
        return data

    @model_validator(mode="after")
    def _identifiers(self) -> Self:
        if self.identifiers and not self.privacy.allow_identifiers:
            raise ValueError(
                f"{self.identifiers[0]} can identify a patient. Leave it out, or set allow_identifiers = true"
                " under [privacy] (docs/how-to/privacy.md)"
            )
        return self

    @model_validator(mode="after")
    def _names(self) -> Self:
        for name in self.fields:
            if name in SYSTEM_FIELDS:
                raise ValueError(f"fields.{name}: this name is used by cxrsearch itself")
            if not valid_field_name(name):
                raise ValueError(f"fields.{name}: a field name is small letters, digits and _, a letter first")
        return self

    @property
    def entering(self) -> dict[str, FieldMapping]:
        """The fields that enter an index: free text only where the mapping lets it in."""
        return {n: f for n, f in self.fields.items() if f.type is not FieldType.TEXT or self.privacy.free_text}

    @property
    def declared(self) -> dict[str, Field]:
        return {n: Field(n, f.type, f.separator is not None, f.later, f.unit) for n, f in self.entering.items()}

    @property
    def identifiers(self) -> list[str]:
        """Declared DICOM keywords that can identify a patient."""
        return sorted(f.dicom for f in self.fields.values() if f.dicom and identifying(f.dicom, f.type))

    @property
    def patient_namespace(self) -> str:
        return (self.patient.namespace if self.patient else None) or self.name

    @property
    def numberings(self) -> dict[str, Numbering]:
        """Of the patient and of the study, where the mapping has them."""
        named = (("patient", self.patient), ("study", self.study))
        return {name: source.numbering(self.missing) for name, source in named if source is not None}

    @property
    def sources(self) -> dict[str, ValueSource]:
        """Every source by the name its errors use."""
        named: dict[str, ValueSource] = {f"fields.{name}": field for name, field in self.entering.items()}
        return named | {n: s for n, s in (("patient", self.patient), ("study", self.study)) if s is not None}

    @property
    def dicom_keywords(self) -> tuple[str, ...]:
        return tuple(sorted({s.dicom for s in self.sources.values() if s.dicom is not None}))


def _marked(field: Any, mark: str) -> Any:
    match field:
        case {"column": str(), "type": "integer" | "float"} if field.get("decimal") is None:
            return {**field, "decimal": mark}
    return field
