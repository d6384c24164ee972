"""Two small curves of a training: its loss, and the score on the pictures held out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPalette, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

__all__ = ["TrainingPlot"]

Point = tuple[float, float]

_LOSS = QColor("#4c9be8")
_SCORE = QColor("#f2a33a")
_SMOOTH = 0.9  # of the running mean of the losses
_MOST = 600  # points that a line is drawn with


class TrainingPlot(QWidget):
    """Loss by step above, PSNR by step below; dashed is the base model's, dotted that of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 1
        self.base: float | None = None
        self.untouched: float | None = None
        self.losses: list[Point] = []
        self.scores: list[Point] = []
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setAccessibleName("Loss and validation")
        self.setToolTip(
            "Above: the training loss, each step and its running mean.\n"
            "Below: PSNR on the pictures held out. The dashed line is the base model's,\n"
            "the dotted one that of the pictures as they are."
        )

    def clear(self) -> None:
        """Remove all curves."""
        self.steps, self.base, self.untouched, self.losses, self.scores = 1, None, None, [], []
        self.update()

    def add(self, step: int, steps: int, loss: float, score: float | None) -> None:
        """Add a step; later ones that were drawn before, of a run that broke off, vanish."""
        for points in (self.losses, self.scores):
            while points and points[-1][0] >= step:
                points.pop()
        self.steps = max(steps, 1)
        if math.isfinite(loss):
            self.losses.append((step, loss))
        if score is not None:
            self.scores.append((step, score))
        self.update()

    def sizeHint(self) -> QSize:
        """Ask for two curves' height."""
        return QSize(260, 2 * (self.fontMetrics().height() + 58))

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw both curves."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        half = self.height() / 2
        loss = _smoothed(self.losses)
        self._draw(painter, QRectF(0, 0, self.width(), half), "Loss", [(_faint(_LOSS), self.losses), (_LOSS, loss)])
        title = "PSNR of the validation pictures, dB"
        points = self.scores if self.base is None else [(0.0, self.base), *self.scores]
        marks = [(self.base, Qt.PenStyle.DashLine), (self.untouched, Qt.PenStyle.DotLine)]
        self._draw(painter, QRectF(0, half, self.width(), half), title, [(_SCORE, points)], marks)

    def _draw(
        self,
        painter: QPainter,
        area: QRectF,
        title: str,
        lines: Sequence[tuple[QColor, Sequence[Point]]],
        marks: Sequence[tuple[float | None, Qt.PenStyle]] = (),
    ) -> None:
        metrics, ink = painter.fontMetrics(), self.palette().color(QPalette.ColorRole.WindowText)
        row = metrics.height()
        values = [y for _, points in lines for _, y in points] + [y for y, _ in marks if y is not None]
        low, high = _limits(values)
        labels = [_number(high, high - low), _number(low, high - low)]
        left = max(metrics.horizontalAdvance(label) for label in labels) + 6
        frame = QRectF(left, area.top() + row + 2, area.width() - left - 4, area.height() - 2 * row - 4)
        painter.setPen(ink)
        painter.drawText(QPointF(left, area.top() + row - 3), title)
        _text(painter, QRectF(left, frame.bottom(), frame.width(), row), Qt.AlignmentFlag.AlignLeft, "0")
        end = f"step {self.steps}" if values else ""
        _text(painter, QRectF(left, frame.bottom(), frame.width(), row), Qt.AlignmentFlag.AlignRight, end)
        painter.setPen(QPen(_faint(ink), 1))
        painter.drawRect(frame)
        if not values:
            return
        painter.setPen(ink)
        for label, y in zip(labels, (frame.top(), frame.bottom() - row), strict=True):
            _text(painter, QRectF(0, y, left - 4, row), Qt.AlignmentFlag.AlignRight, label)

        def place(x: float, y: float) -> QPointF:
            share = (min(max(y, low), high) - low) / (high - low)
            return QPointF(frame.left() + frame.width() * x / self.steps, frame.bottom() - frame.height() * share)

        for mark, style in marks:
            if mark is not None:
                painter.setPen(QPen(ink, 1, style))
                painter.drawLine(place(0, mark), place(self.steps, mark))
        for colour, points in lines:
            painter.setPen(QPen(colour, 1.6))
            painter.drawPolyline(QPolygonF([place(x, y) for x, y in _thinned(points)]))
            if points and len(points) <= 50:
                painter.setBrush(colour)
                painter.drawEllipse(place(*points[-1]), 2.5, 2.5)
                painter.setBrush(Qt.BrushStyle.NoBrush)


def _text(painter: QPainter, area: QRectF, side: Qt.AlignmentFlag, text: str) -> None:
    painter.drawText(area, side | Qt.AlignmentFlag.AlignTop, text)


def _faint(colour: QColor) -> QColor:
    faint = QColor(colour)
    faint.setAlpha(90)
    return faint


def _smoothed(points: Sequence[Point]) -> list[Point]:
    smooth: list[Point] = []
    mean, weight = 0.0, 0.0
    for x, y in points:
        mean, weight = _SMOOTH * mean + (1 - _SMOOTH) * y, _SMOOTH * weight + (1 - _SMOOTH)
        smooth.append((x, mean / weight))
    return smooth


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    every = -(-len(points) // _MOST)
    return points if every < 2 else [*points[:-1:every], points[-1]]


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis; the largest hundredth of many values may lie beyond."""
    if not values:
        return 0.0, 1.0
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1 - len(ordered) // 100]
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return max(low - margin, 0.0) if low >= 0 else low - margin, high + margin


def _number(value: float, span: float) -> str:
    digits = max(0, min(4, 1 - math.floor(math.log10(span)))) if span > 0 else 2
    return f"{value:.{digits}f}"
