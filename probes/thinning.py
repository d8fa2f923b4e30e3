"""Fewer records while the writer does not keep up, and as many as before once it does."""

from __future__ import annotations

CALM = 4
"""Steps that may wait for the writer where it counts as keeping up."""

PATIENCE = 8
"""Records in a row that the writer must keep up with before more are made; doubled at each loss."""


class Thinning:
    """Which of the scheduled steps are left out because the writer is behind.

    ``stretch`` says that every how manieth is recorded, ``dropped`` counts recorded steps that the
    writer could not take, ``left_out`` those that were not recorded for its sake.

    Example:
        >>> thinning = Thinning()
        >>> thinning.lost()
        >>> [step for step in range(6) if thinning.includes()], thinning.left_out
        ([0, 2, 4], 3)
        >>> [thinning.kept(waiting=0) for _ in range(2 * PATIENCE)].index(True)
        15
        >>> thinning.stretch
        1
    """

    def __init__(self) -> None:
        self.stretch = 1
        self.dropped = self.left_out = 0
        self._due = self._calm = 0
        self._patience = PATIENCE

    def includes(self) -> bool:
        """Return whether the next scheduled step is recorded; to be asked once for each."""
        self._due += 1
        if (self._due - 1) % self.stretch == 0:
            return True
        self.left_out += 1
        return False

    def lost(self) -> None:
        """Record half as often: the writer could not take a step."""
        self.dropped += 1
        self.stretch *= 2
        self._calm = 0
        self._patience *= 2

    def kept(self, waiting: int) -> bool:
        """Note a step that the writer took.

        Args:
            waiting: how many wait for it now.

        Returns:
            Whether twice as many are recorded from now on.
        """
        self._calm = self._calm + 1 if waiting <= CALM else 0
        if self.stretch == 1 or self._calm < self._patience:
            return False
        self.stretch //= 2
        self._calm = 0
        return True
