"""The lower part of the restore widget: estimate, buttons, progress, and what happened."""

from __future__ import annotations

from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QPushButton, QToolButton, QVBoxLayout, QWidget

from napari_dmgn.plugin.form import breakable, note

__all__ = ["RunBar"]

_MOST_STATUS = 150  # pixels


class RunBar(QWidget):
    """Buttons that start and stop a run, and labels that tell of it."""

    def __init__(self) -> None:
        super().__init__()
        self.estimate = note()
        self.measure_button = QToolButton()
        self.measure_button.setText("Measure")
        self.measure_button.setToolTip("Restore a small picture to learn how fast this machine is. Takes seconds.")
        self.restore_button = QPushButton("Restore")
        self.restore_button.setToolTip("Restore the layer with these settings, and add the results as new layers.")
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Stop after the tile at work. The frames of a stack that are done are kept.")
        self.cancel_button.setEnabled(False)
        self.resume_button = QPushButton("Resume")
        self.resume_button.setToolTip("Go on with the frames that the stopped run has not done.")
        self.resume_button.setVisible(False)
        self.python_button, self.command_button = QToolButton(), QToolButton()
        self.python_button.setText("Copy as Python")
        self.python_button.setToolTip("Put Python that does the same on the clipboard, for napari's console.")
        self.command_button.setText("Copy as command")
        self.command_button.setToolTip("Put a command that does the same on the clipboard, for the shell.")
        self.progress_bar = QProgressBar()
        self.progress_bar.setVisible(False)
        self.status = note()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for row in (
            ((self.estimate, 1), (self.measure_button, 0)),
            ((self.restore_button, 2), (self.resume_button, 1), (self.cancel_button, 1)),
        ):
            column.addLayout(_row(*row))
        column.addWidget(self.progress_bar)
        column.addWidget(self.status)
        copies = _row((self.python_button, 0), (self.command_button, 0))
        copies.addStretch()
        column.addLayout(copies)

    def set_running(self, running: bool) -> None:
        """Enable what can be pressed now."""
        self.restore_button.setEnabled(not running)
        self.resume_button.setEnabled(not running)
        self.measure_button.setEnabled(not running)
        self.cancel_button.setEnabled(running)
        self.progress_bar.setRange(0, 0 if running else 1)
        self.progress_bar.reset()
        self.progress_bar.setVisible(running)

    def say(self, text: str, *, details: str = "") -> None:
        """Tell what happened."""
        self.status.setText(breakable(text))
        self.status.setToolTip(details)
        self._fit()

    def show_estimate(self, text: str, *, known: bool) -> None:
        """Tell what a run would need; where the pace is not known it can be measured."""
        self.estimate.setText(text)
        self.estimate.setVisible(bool(text))
        self.measure_button.setVisible(bool(text) and not known)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Wrap the status anew."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        """Keep room for the whole status: where docks are short, the form above can be scrolled."""
        self.status.setMinimumHeight(min(_MOST_STATUS, max(0, self.status.heightForWidth(self.width()))))


def _row(*widgets: tuple[QWidget, int]) -> QHBoxLayout:
    row = QHBoxLayout()
    for widget, stretch in widgets:
        row.addWidget(widget, stretch)
    return row
