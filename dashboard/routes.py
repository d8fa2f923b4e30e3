"""Addresses beside the app itself: the tables behind the figures, as CSV."""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask, Response, abort, request

from ..data.runs import RunError
from .catalogue import Catalogue
from .pages import PAGES
from .pieces import TABLE_PATH, Piece
from .view import View


def add_routes(server: Flask, catalogue: Catalogue, page_of: Callable[[View], str]) -> None:
    """Serve the table behind each figure.

    Args:
        server: the WSGI app.
        catalogue: the runs.
        page_of: which page a view stands for.
    """

    def table() -> Response:
        view = View.parse(request.query_string.decode("utf-8", "replace"))
        wanted = request.args.get("piece", "")
        try:
            found = {piece.name: piece for piece in pieces_of(catalogue, view, page_of(view))}
            if wanted not in found:
                abort(404, "There is no such table on this page.")
            text = found[wanted].frame().to_csv(index=False)
        except (RunError, ValueError, OSError) as error:
            abort(404, str(error))
        return Response(
            text,
            mimetype="text/csv; charset=utf-8",
            headers={"Content-Disposition": "attachment", "Cache-Control": "no-store"},
        )

    server.add_url_rule(TABLE_PATH, "table", table)


def pieces_of(catalogue: Catalogue, view: View, page: str) -> list[Piece]:
    """Return the figures of the page that a view stands for; none for a page without any."""
    entry = PAGES[page]
    if entry.pieces is None:
        return []
    if not entry.of_run:
        return entry.pieces(catalogue, view)
    return entry.pieces(catalogue.run(view.run or catalogue.only), view)
