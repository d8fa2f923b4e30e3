"""A run as one file that opens anywhere, offline: the figures of the pages, tables, findings."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from . import figures
from .catalogue import Snapshot
from .figures_style import CONFIG, palette, reading
from .groups import ranked
from .metrics import METRICS
from .pages import attribution, drift, flow, layer, overview
from .pages import findings as findings_page
from .pieces import Piece
from .view import View
from .words import measured, place, spec_line, state, verdict

MOST_LAYERS = 8
"""Layers with figures of their own: those with the gravest findings, then the first ones."""

MOST_ROWS = 400
"""Rows of a table; a note says how many are left out."""

_STYLE = """
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 0 auto; padding: 16px;
       background: {paper}; color: {text}; overflow-wrap: anywhere; }}
h1, h2, h3 {{ line-height: 1.25; }}
a {{ color: {accent}; }}
figure {{ margin: 0 0 32px; }}
figcaption, .quiet {{ color: {muted}; font-size: 14px; }}
table {{ border-collapse: collapse; font-size: 14px; }}
th, td {{ text-align: left; padding: 4px 12px 4px 0; border-bottom: 1px solid {grid};
          font-weight: 400; }}
.scroll {{ overflow-x: auto; max-height: 480px; }}
nav {{ display: flex; flex-wrap: wrap; gap: 4px 16px; margin-bottom: 16px; }}
@media (max-width: 800px) {{
    .heatmap-label {{ display: none; }} /* too narrow for numbers: the tables have them */
}}
.verdict {{ font-size: 18px; padding: 8px 16px; border-left: 6px solid {accent}; }}
"""


def export_html(path: Path, out: Path, *, theme: str = "light") -> Path:
    """Write a run as one self-contained HTML file.

    Args:
        path: folder of the run.
        out: file to write; it must not exist.
        theme: ``"light"`` or ``"dark"``.

    Returns:
        The file.

    Raises:
        RunError: no run, or one that cannot be read.
        ValueError: an unknown theme.
        FileExistsError: there is such a file already.
    """
    colours = palette(theme)
    run = Snapshot(path)
    found = findings_page.ranked(_judged(run))
    parts = [
        f"<h1>{escape(run.name)}</h1>",
        f"<p class='quiet'>{escape(str(run.header.get('model') or ''))}, {escape(state(run))}</p>",
        f"<p class='verdict'>{escape(verdict(run, found)[0])}</p>",
    ]
    sections = [("Findings", _findings(found))]
    sections += [
        (title, "".join(_figure(piece) for piece in shown))
        for title, shown in _sections(run, theme)
    ]
    sections.append(("Layers", _layers(run)))
    links = [
        f"<a href='#s{place}'>{escape(title)}</a>" for place, (title, _) in enumerate(sections)
    ]
    parts.append(f"<nav aria-label='sections'>{''.join(links)}</nav>")
    parts += [
        f"<h2 id='s{place}'>{escape(title)}</h2>{content}"
        for place, (title, content) in enumerate(sections)
    ]
    style = _STYLE.format(
        paper=colours.paper, text=colours.text, accent=colours.accent, muted=colours.muted,
        grid=colours.grid,
    )  # fmt: skip
    # The policy holds offline, too: nothing is fetched, whatever a name may contain.
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "img-src data: blob:"
    )
    text = (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        "<meta name='viewport' content='width=device-width'>"
        f"<title>{escape(run.name)} - spikescope</title><style>{style}</style>"
        f"<script>{get_plotlyjs()}</script></head><body><main>{''.join(parts)}</main></body></html>"
    )
    with out.open("x", encoding="utf-8") as file:
        file.write(text)
    return out


def _judged(run: Snapshot) -> Snapshot:
    """Wait until the rules have looked at a run."""
    while not run.check():
        pass
    return run


def _sections(run: Snapshot, theme: str) -> list[tuple[str, list[Piece]]]:
    base = View(run=run.name, theme=theme)
    if not len(run.steps(None)):
        return []
    metrics = [name for name, what in METRICS.items() if what.over_layers]
    # The scalars under the heatmap are the same for each metric.
    maps = [overview.pieces(run, base.but(metric=metric))[0] for metric in metrics]
    sections = [
        ("Overview", [*maps, *overview.pieces(run, base)[1:]]),
        ("Gradient flow", flow.pieces(run, base)),
    ]
    for k, name in enumerate(_layers_shown(run)):
        # A page reads a long run piece by piece; here all of it must be there.
        figures.ribbon_values(run, name)
        view = base.but(layer=name)
        # What a better start would mend is the same figure for all layers.
        drifts = drift.pieces(run, view)[: 2 if k == 0 else 1]
        sections.append((f"Layer {name}", [*layer.pieces(run, view), *drifts]))
    sections.append(("Attribution", attribution.pieces(run, base)))
    return [(title, pieces) for title, pieces in sections if pieces]


def _layers_shown(run: Snapshot) -> list[str]:
    named = [finding.layer for finding in ranked(run.findings) if finding.layer]
    covered = [entry.name for entry in run.covered]
    chosen = list(dict.fromkeys([name for name in named if name in covered] + covered))
    kept = set(chosen[:MOST_LAYERS])
    return [name for name in covered if name in kept]


def _figure(piece: Piece) -> str:
    drawn: go.Figure = piece.draw()
    words = escape(reading(drawn))
    # A title is escaped for plotly already.
    title = str(drawn.layout.title.text or "").replace('"', "&quot;")
    if not drawn.data:
        return f"<p class='quiet'><b>{title}</b>: {words}</p>"
    body = drawn.to_html(
        full_html=False, include_plotlyjs=False, config=CONFIG, default_width="100%"
    )
    frame = piece.frame()
    table = _table(frame) if len(frame) else ""
    details = f"<details><summary>Table</summary>{table}</details>" if table else ""
    return (
        f"<figure><div role='img' aria-label=\"{title}. {words}\"></div>{body}"
        f"<figcaption>{words}{details}</figcaption></figure>"
    )


def _table(frame: Any) -> str:
    head = "".join(f"<th scope='col'>{escape(str(name))}</th>" for name in frame.columns)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(_cell(value))}</td>' for value in row)}</tr>"
        for row in frame.head(MOST_ROWS).itertuples(index=False, name=None)
    )
    more = (
        f"<p class='quiet'>{len(frame) - MOST_ROWS} further rows: spikescope export --to csv</p>"
        if len(frame) > MOST_ROWS
        else ""
    )
    return (
        f"<div class='scroll' tabindex='0'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>{more}"
    )


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.6g}" if np.isfinite(value) else ""
    return str(value)


def _findings(found: list[Any]) -> str:
    if not found:
        return "<p>None.</p>"
    items = [
        f"<li><b>{escape(f.severity)} {escape(f.code)}</b> {escape(place(f))}: {escape(f.text)} "
        f"<span class='quiet'>Measured {escape(measured(f))}. {escape(f.source)}</span></li>"
        for f in found
    ]
    return f"<ul>{''.join(items)}</ul>"


def _layers(run: Snapshot) -> str:
    rows = [
        f"<tr><td>{escape(entry.name)}</td><td>{escape(entry.kind)}</td><td>"
        f"{'yes' if entry.covered else escape('no: ' + (entry.reason or 'no reason given'))}</td>"
        f"<td>{escape(spec_line(entry.spec, entry.surrogate))}</td></tr>"
        for entry in run.layers
    ]
    head = "".join(
        f"<th scope='col'>{name}</th>" for name in ("name", "kind", "covered", "dynamics")
    )
    return (
        f"<div class='scroll' tabindex='0'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
