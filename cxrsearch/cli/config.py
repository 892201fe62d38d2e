"""cxrsearch config: show all settings and where they were set."""

from __future__ import annotations

from typing import Any

from cxrsearch.cli.options import Output
from cxrsearch.report.rows import Format, write


def config(format: Output = Format.TABLE) -> None:
    """Show every setting, its value, and where it was set.

    Example: cxrsearch config
    """
    from cxrsearch import settings
    from cxrsearch.settings.sources import SECRET, Settings, variable

    rows: list[dict[str, Any]] = []
    for name, field in Settings.model_fields.items():
        given = settings.given(name)
        value = "(set, not shown)" if given.value and name in SECRET else given.value
        rows.append(
            {
                "setting": name,
                "value": value,
                "from": given.source or "default",
                "variable": variable(name),
                "meaning": field.description,
            }
        )
    write(rows, list(rows[0]), format)
    if format is Format.TABLE:
        read = ", ".join(str(path) for path in settings.files() if path is not None)
        print(f"settings files: {read or f'none ({settings.FILE} here or in the config folder)'}")
