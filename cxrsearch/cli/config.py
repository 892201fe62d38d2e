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

    rows: list[dict[str, Any]] = []
    for name, setting in settings.SETTINGS.items():
        given = settings.given(name)
        value = "(set, not shown)" if given.value and setting.secret else given.value
        rows.append(
            {
                "setting": name,
                "value": value,
                "from": given.source or "default",
                "variable": setting.variable,
                "meaning": setting.meaning,
            }
        )
    write(rows, list(rows[0]), format)
    if format is Format.TABLE:
        print(f"settings file: {settings.file() or f'none ({settings.FILE} here or in the config folder)'}")
