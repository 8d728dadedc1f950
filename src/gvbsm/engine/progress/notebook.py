"""Bars of a notebook, which vanish when they are full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tqdm.notebook import tqdm_notebook

if TYPE_CHECKING:
    NotebookTqdm = tqdm_notebook[Any]
else:
    NotebookTqdm = tqdm_notebook  # not generic when it runs


class VanishingBar(NotebookTqdm):
    """A bar that leaves nothing in the cell, or what it showed if its loop was stopped.

    tqdm alone leaves the text of an empty bar in the saved notebook for each loop of a run.
    """

    def __init__(self, **options: Any) -> None:
        from IPython.display import display  # of a notebook alone

        super().__init__(display=False, leave=False, **options)
        self.displayed = True
        self._shown = display(self.container, display_id=True)

    def close(self) -> None:
        """End the bar."""
        is_stopped = self.total and self.n < self.total
        super().close()
        if not is_stopped:
            self._shown.update({"text/html": ""}, raw=True)
