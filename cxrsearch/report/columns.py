"""Which facts a table of images shows: what the user named, else what is known, findings and outcomes first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cxrsearch.clinical.fields import SYSTEM_FIELDS, Field, FieldType, Payload
from cxrsearch.errors import UsageError
from cxrsearch.store.contract import DatasetFacts
from cxrsearch.text import nearest

_FINDING = re.compile(r"(^|_)(findings?|labels?|diagnos\w*|disease|patholog\w*|befunde?)(_|$)")
_OUTCOME = re.compile(r"(^|_)(outcomes?|surviv\w*|died|death|mortality|icu|severity)(_|$)")


def choose(fields: Mapping[str, Field], payloads: Sequence[Payload], first: Sequence[str] = ()) -> list[str]:
    """Declared fields that are known of any of these images, the patient, and those of ``first``; best first.

    Fields that are findings or outcomes, by name or because the mapping says ``later``, come before all others, and
    those are in order of how many images have them. Free text is left to where it is asked for.
    """
    known = {name: sum(payload.get(name) is not None for payload in payloads) for name in fields}
    declared = [
        name
        for name, field in fields.items()
        if known[name] and name not in SYSTEM_FIELDS and field.type is not FieldType.TEXT
    ]
    declared.sort(key=lambda name: (_place(fields[name]), -known[name]))  # stable: of equals, the first declared
    always = [name for name in first if name in fields]
    return list(dict.fromkeys([*always, *declared, *(["patient"] if known.get("patient") else [])]))


def named(text: str, fields: Mapping[str, Field], is_setting: bool) -> list[str]:
    """The fields of a text ``a,b,c``. ``is_setting``: it was set for all indexes, and what one lacks is passed over.

    Raises UsageError for a field that the index does not have.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if is_setting:
        return [name for name in names if name in fields]
    if (unknown := next((name for name in names if name not in fields), None)) is not None:
        near = nearest(unknown, fields) or f" Fields: {', '.join(sorted(fields))}."
        raise UsageError(f"--fields {unknown}: no such field in this index.{near}")
    return names


def headings(fields: Mapping[str, Field]) -> dict[str, str]:
    """Names with their unit, where there is one."""
    return {name: f"{name} ({field.unit})" for name, field in fields.items() if field.unit}


def path_words(payloads: Sequence[Payload], datasets: Mapping[str, DatasetFacts]) -> list[str]:
    """Where the paths of these images lead, a line for each folder."""
    used = [name for name in datasets if any(payload.get("dataset") == name for payload in payloads)]
    lines = []
    for name in used:
        whose = f" of {name}" if len(used) > 1 else ""
        if root := datasets[name].root:
            folder = Path(root)
            shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
            lines.append(f"paths{whose} are below {shown}")
        else:
            lines.append(f"paths{whose} are tokens; cxrsearch locate DATASET TOKEN names the file, where the key is")
    return lines


def _place(field: Field) -> int:
    if _FINDING.search(field.name):
        return 0
    return 1 if field.later or _OUTCOME.search(field.name) else 2
