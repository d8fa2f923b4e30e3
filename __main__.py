"""``python -m spikescope`` is the ``spikescope`` command."""

from .cli import main

main()
