"""A run as one file that opens anywhere, offline: the figures of the pages, tables, findings."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from ..analysis.findings import SEVERITIES
from .catalogue import Snapshot
from .figures_style import CONFIG, palette, reading
from .metrics import METRICS
from .pages import PAGES
from .pages import findings as findings_page
from .pieces import Piece
from .view import View
from .words import place, spec_line, state, verdict

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
        "<h2>Findings</h2>",
        _findings(found),
    ]
    for title, shown in _sections(run, theme):
        parts.append(f"<h2>{escape(title)}</h2>")
        parts += [_figure(piece) for piece in shown]
    parts += ["<h2>Layers</h2>", _layers(run)]
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
    sections: list[tuple[str, list[Piece]]] = []

    def add(title: str, page: str, view: View) -> None:
        pieces = PAGES[page].pieces
        if pieces is not None:
            sections.append((title, pieces(run, view)))

    for metric, what in METRICS.items():
        if what.over_layers:
            shown = PAGES["overview"].pieces
            if shown is not None:
                # The scalars under the heatmap are the same for each metric.
                sections.append((what.title, shown(run, base.but(metric=metric))[:1]))
    scalars = PAGES["overview"].pieces
    if scalars is not None:
        sections.append(("Training", scalars(run, base)[1:]))
    add("Gradient flow", "flow", base)
    for name in _layers_shown(run):
        add(f"Layer {name}", "layer", base.but(layer=name))
        drift = PAGES["drift"].pieces
        if drift is not None:
            sections.append((f"Drift of {name}", drift(run, base.but(layer=name))[:1]))
    return sections


def _layers_shown(run: Snapshot) -> list[str]:
    ranked = sorted(run.findings, key=lambda finding: SEVERITIES.index(finding.severity))
    named = [finding.layer for finding in ranked if finding.layer]
    covered = [layer.name for layer in run.covered]
    chosen = list(dict.fromkeys([name for name in named if name in covered] + covered))
    kept = set(chosen[:MOST_LAYERS])
    return [name for name in covered if name in kept]


def _figure(piece: Piece) -> str:
    drawn: go.Figure = piece.draw()
    words = escape(reading(drawn))
    body = drawn.to_html(
        full_html=False, include_plotlyjs=False, config=CONFIG, default_width="100%"
    )
    frame = piece.frame()
    table = _table(frame) if len(frame) else ""
    details = f"<details><summary>Table</summary>{table}</details>" if table else ""
    title = escape(str(drawn.layout.title.text or ""))
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
        f"<span class='quiet'>Measured {f.measured:.4g} ± {f.error:.2g} {escape(f.unit)}, bound "
        f"{f.bound:.4g}. {escape(f.source)}</span></li>"
        for f in found
    ]
    return f"<ul>{''.join(items)}</ul>"


def _layers(run: Snapshot) -> str:
    rows = [
        f"<tr><td>{escape(layer.name)}</td><td>{escape(layer.kind)}</td><td>"
        f"{'yes' if layer.covered else escape('no: ' + (layer.reason or 'no reason given'))}</td>"
        f"<td>{escape(spec_line(layer.spec, layer.surrogate))}</td></tr>"
        for layer in run.layers
    ]
    head = "".join(
        f"<th scope='col'>{name}</th>" for name in ("name", "kind", "covered", "dynamics")
    )
    return (
        f"<div class='scroll' tabindex='0'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
