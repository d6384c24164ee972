"""Small parts of a form: a scroll area that fits, boxes of choices, notes that wrap."""

from __future__ import annotations

import re
from typing import Any

from qtpy.QtCore import QEvent, QSize, Qt
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import QComboBox, QFrame, QLabel, QScrollArea, QSizePolicy, QWidget


class DockedWidget(QWidget):
    """A widget that is told when the dock around it is closed; hidden is not closed."""

    _docked = False

    def event(self, event: QEvent) -> bool:
        """Close down when the dock lets go of this widget."""
        if event.type() == QEvent.Type.ParentChange:
            if self.parent() is not None:
                self._docked = True
            elif self._docked:
                self._docked = False
                self._close_down()
        return bool(super().event(event))

    def _close_down(self) -> None:
        """Stop what runs and put the viewer back; a widget's own."""
        raise NotImplementedError


class FormArea(QScrollArea):
    """As high as its form where there is room, and scrolled where there is not."""

    def __init__(self, form: QWidget) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self.setMinimumHeight(120)
        self.setWidget(form)

    def sizeHint(self) -> QSize:
        """Ask for the form's height at the present width: its notes wrap."""
        border = self.height() - self.viewport().height()
        height = self.widget().layout().totalHeightForWidth(self.width() - border)
        return QSize(super().sizeHint().width(), height + border)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Ask anew when the width has changed."""
        super().resizeEvent(event)
        if event.size().width() != event.oldSize().width():
            self.updateGeometry()


def combo(tip: str, choices: list[Any] | None = None) -> QComboBox:
    """Make a box of choices, rows of (label, value)."""
    box = QComboBox()
    box.setToolTip(tip)
    # A long layer name must not widen the dock.
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(12)
    box.addItems([label for label, _ in choices or []])
    return box


def choice(box: QComboBox, choices: list[Any]) -> Any:
    """Return the value of the chosen row."""
    return choices[box.currentIndex()][1]


def select(box: QComboBox, choices: list[Any], value: object) -> None:
    """Choose the row of a value, if there is one."""
    for index, (_, known) in enumerate(choices):
        if known == value:
            box.setCurrentIndex(index)


def refill(box: QComboBox, labels: list[str], otherwise: str) -> None:
    """Replace the rows without a signal; an empty box says what is missing."""
    blocked = box.blockSignals(True)
    box.clear()
    box.addItems(labels or [otherwise])
    box.setEnabled(bool(labels))
    box.blockSignals(blocked)


def note() -> QLabel:
    """Make a label for sentences, which can be copied."""
    label = QLabel()
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label


def breakable(text: str) -> str:
    """Let long words, such as paths, break where a label wraps its lines."""
    return re.sub(r"\S{24}(?=\S)", lambda word: f"{word.group()}\u200b", text)
