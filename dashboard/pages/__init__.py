"""One file per page; a page answers one question."""
