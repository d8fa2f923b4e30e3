"""Building blocks of the pages: a figure with its reading, tables, switches, notices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
import numpy as np
import pandas as pd
from dash import html

# The grid follows the page's theme through its variables.
GRID_THEME = {
    "function": "themeQuartz.withParams({"
    "backgroundColor: 'var(--mantine-color-body)', foregroundColor: 'var(--mantine-color-text)', "
    "headerBackgroundColor: 'var(--mantine-color-default-hover)', "
    "borderColor: 'var(--mantine-color-default-border)', "
    "fontFamily: 'inherit', fontSize: '14px', wrapperBorderRadius: '4px', spacing: '6px'})"
}


_FOUR_DIGITS = {
    "function": "params.value == null ? '' : "
    "(params.value < 0.001 && params.value > -0.001 && params.value != 0) ? "
    "d3.format('.3~e')(params.value) : d3.format('.4~g')(params.value)"
}


CHARACTER = 8
"""Pixels of a character in a table, about."""

WIDEST = 260
"""Pixels that a column takes for its text; the rest of a longer one is on hover."""

_BRIEFLY = tuple(
    # The word of a new size may come when the visitor is on another page already.
    f"params.api.isDestroyed() ? null : params.api.setColumnsVisible({{}}, {when})"
    for when in ("params.clientWidth < 768", "params.clientWidth >= 768")
)
"""What a grid does when its size is another: one column for all, or all others."""


def named(label: str) -> dict[str, Any]:
    """Return the attribute that names an element for assistive technology."""
    return {"aria-label": label}


def grid(
    frame: pd.DataFrame,
    label: str,
    *,
    name: str = "table",
    height: str | None = None,
    sortable: bool = True,
    select: bool = False,
    wrapped: Sequence[str] = (),
    brief: str = "",
) -> html.Div:
    """Return a table of plain text and numbers; rows are drawn as they scroll into sight.

    Args:
        frame: the rows; column names become headers.
        label: what the table holds, for assistive technology.
        name: tells tables apart.
        height: CSS height; as high as its rows if None.
        sortable: whether a click on a header sorts; text made of numbers does not sort.
        select: whether a row can be chosen.
        wrapped: columns whose text runs over several lines.
        brief: a column that says all of a row; it alone is shown where there is no room for the
            others, and nowhere else.

    Returns:
        A labelled AG Grid.
    """
    many = len(frame) > 20
    columns = [
        {
            # A field must not hold dots: AG Grid would look inside a nested object.
            "field": f"c{place}",
            "headerName": str(header),
            "tooltipField": f"c{place}",
            **_widths(frame.iloc[:, place], header in (*wrapped, brief), sortable and many),
            # Only at first: a tick must not hide what is shown by now.
            **({"initialHide": True} if header == brief else {}),
            **({"wrapText": True, "autoHeight": True} if header in (*wrapped, brief) else {}),
            **({"valueFormatter": _FOUR_DIGITS} if frame.dtypes.iloc[place].kind == "f" else {}),
        }
        for place, header in enumerate(frame.columns)
    ]
    rows = [
        {"row": number} | {f"c{place}": _cell(value) for place, value in enumerate(row)}
        for number, row in enumerate(frame.itertuples(index=False, name=None))
    ]
    options: dict[str, Any] = {
        "theme": GRID_THEME,
        "enableCellTextSelection": True,
        "tooltipShowDelay": 300,
        "ensureDomOrder": True,
        # Else the browser gives no size to a table below the fold, and AG Grid shows no cell before
        # it knows one: whoever hears the page would find a table without cells.
        "suppressContentVisibilityAuto": True,
    }
    if select:
        options["rowSelection"] = {
            "mode": "singleRow",
            "checkboxes": False,
            "enableClickSelection": True,
        }
    few = height is None and len(rows) <= 20
    if few:
        options["domLayout"] = "autoHeight"
    table = dag.AgGrid(
        id={"type": "grid", "index": name},
        columnDefs=columns,
        rowData=rows,
        defaultColDef={
            "sortable": sortable,
            "resizable": True,
            "filter": sortable and many,
            "wrapHeaderText": True,
            "autoHeaderHeight": True,
            "cellDataType": False,
        },
        dashGridOptions=options,
        eventListeners=_listeners(frame, brief) if brief else None,
        style={"height": None if few else (height or "560px"), "width": "100%"},
    )
    return html.Div(table, role="region", className="grid", **named(label))


def _listeners(frame: pd.DataFrame, brief: str) -> dict[str, list[str]]:
    """Return what shows the one column, or all others, as there is room."""
    fields = {name: f"c{place}" for place, name in enumerate(frame.columns)}
    others = [field for name, field in fields.items() if name != brief]
    briefly, widely = _BRIEFLY
    return {"gridSizeChanged": [briefly.format([fields[brief]]), widely.format(others)]}


def _widths(values: pd.Series, wrapped: bool, filtered: bool) -> dict[str, Any]:
    """Return how wide a column is: its longest cell and the longest word of its header fit."""
    shown = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in values]
    longest = max(map(len, shown), default=0)
    if wrapped:
        # Long texts get more of the room than short ones.
        return {"flex": min(max(longest / 40, 2), 6), "minWidth": 180}
    word = max(map(len, str(values.name).split()), default=0)
    room = max(CHARACTER * longest + 26, CHARACTER * word + (54 if filtered else 26))
    return {"flex": 1, "minWidth": int(min(room, WIDEST))}


def _cell(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    # JSON has no NaN.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def switch(key: str, value: str, choices: Sequence[tuple[str, str]], label: str) -> html.Div:
    """Return a switch that writes one part of the address.

    Args:
        key: the part, a field of :class:`View`.
        value: what is chosen now.
        choices: ``(value, text)`` pairs.
        label: its name, shown beside it.

    Returns:
        A labelled group of radio buttons.
    """
    control = dmc.SegmentedControl(
        id={"type": "set", "key": key},
        value=value,
        data=[{"value": choice, "label": text} for choice, text in choices],
        size="sm",
    )
    return html.Div(
        [html.Span(label, className="label"), control],
        className="control",
        role="group",
        **named(label),
    )


def step_slider(steps: Sequence[int], step: int) -> html.Div:
    """Return the slider over the recorded steps, equally spaced however training spaced them."""
    last = len(steps) - 1
    marks = sorted({0, last // 2, last})
    slider = dmc.Slider(
        id={"type": "set", "key": "step"},
        min=0,
        max=max(last, 1),
        step=1,
        value=list(steps).index(step),
        marks=[{"value": place, "label": f"{steps[place]}"} for place in marks],
        disabled=last == 0,
        label=None,
        thumbLabel="recorded step",
        updatemode="mouseup",
        size="md",
    )
    return html.Div(
        [html.Span("step", className="label"), html.Div(slider, className="slider")],
        className="control wide",
    )


def notice(title: str, *content: Any, kind: str = "note") -> html.Div:
    """Return a message in place of, or above, what it speaks of."""
    return html.Div(
        [
            html.Strong(title),
            *(item if not isinstance(item, str) else html.P(item) for item in content),
        ],
        className=f"notice {kind}",
        role="status",
    )


def labelled(label: str, content: Any, **more: Any) -> html.Td:
    """Return a cell of a table that says what it is where there is no room for columns."""
    attributes: dict[str, Any] = {"data-label": label, **more}
    return html.Td(content, **attributes)


def badge(severity: str, text: str = "") -> html.Span:
    """Return the severity as a word, or other words of that severity; colour only repeats them."""
    return html.Span(text or severity, className=f"badge {severity}")
