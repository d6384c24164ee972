"""What a training shows and is steered by: buttons, progress, the report on the data, curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QHBoxLayout,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_dmgn.plugin.finetune_plot import TrainingPlot
from napari_dmgn.plugin.finetune_request import UnfinishedRun
from napari_dmgn.plugin.form import breakable, combo, note, refill

__all__ = ["FineTunePanel", "verdict_of"]


class FineTunePanel(QWidget):
    """The part below the form; it knows messages, and neither processes nor layers."""

    def __init__(self) -> None:
        super().__init__()
        self.asking = False
        self._base: dict[str, Any] = {}
        self._last_score: float | None = None
        self._resumed: tuple[int, float] | None = None  # step and seconds that this part began with
        self.check_button = _button("Check data", "Show what a training would see, without training.")
        self.start_button = _button("Start", "Train in a process of its own; napari stays free.")
        self.stop_button = _button("Stop", "Stop after this step. The state is saved; Resume goes on.")
        self.install_button = _button("Install", "Copy the best model of this run into your models folder.")
        self.unfinished_box = combo("Runs that were stopped, the latest first.")
        self.resume_button = _button("Resume", "Go on with this run where it was stopped.")
        self.progress_bar = QProgressBar()
        self.status = note()
        self.report_text = QPlainTextEdit()
        self.report_text.setReadOnly(True)
        self.report_text.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.report_text.setMaximumHeight(110)
        self.report_text.setToolTip("What was found, what pairs with what, and what is left out.")
        self.plot = TrainingPlot()
        self.legend = note()
        self._unfinished = QWidget()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        row = QHBoxLayout()
        for button in (self.check_button, self.start_button, self.stop_button, self.install_button):
            row.addWidget(button)
        again = QHBoxLayout(self._unfinished)
        again.setContentsMargins(0, 0, 0, 0)
        again.addWidget(self.unfinished_box, 1)
        again.addWidget(self.resume_button)
        column.addLayout(row)
        for widget in (self._unfinished, self.progress_bar, self.status, self.report_text, self.plot, self.legend):
            column.addWidget(widget)
        for widget in (self.progress_bar, self.report_text, self.plot, self.legend):
            widget.setVisible(False)
        self.end()
        self.install_button.setEnabled(False)

    def say(self, text: str) -> None:
        """Show a sentence."""
        self.status.setText(breakable(text))

    def offer(self, runs: Sequence[UnfinishedRun]) -> None:
        """Offer unfinished runs."""
        refill(self.unfinished_box, [run.label for run in runs], "no unfinished run")
        self._unfinished.setVisible(bool(runs))

    def begin(self, *, check: bool) -> None:
        """Show that something goes on; nothing else can be started now."""
        for button in (self.check_button, self.start_button, self.resume_button, self.install_button):
            button.setEnabled(False)
        self.stop_button.setEnabled(True)
        self.progress_bar.setRange(0, 0)
        self.progress_bar.setVisible(True)
        self.report_text.setVisible(False)
        self.legend.setVisible(False)
        self._base, self._last_score, self._resumed = {}, None, None
        self.plot.clear()
        self.plot.setVisible(not check)

    def end(self) -> None:
        """Show that nothing goes on any more."""
        for button in (self.check_button, self.start_button, self.resume_button):
            button.setEnabled(True)
        self.stop_button.setEnabled(False)
        self.progress_bar.setVisible(False)
        self.ask(False)

    def stopping(self) -> None:
        """Show that a stop is under way."""
        self.stop_button.setEnabled(False)
        self.ask(False)
        self.start_button.setEnabled(False)
        self.say("Stopping after this step …")

    def ask(self, asking: bool) -> None:
        """Ask for leave to train although pictures are left out; Start gives it."""
        self.asking = asking
        self.start_button.setText("Go on" if asking else "Start")
        if asking:
            self.start_button.setEnabled(True)

    def report(self, message: dict[str, Any]) -> None:
        """Show what became of the pictures."""
        self.report_text.setPlainText("\n".join(message["lines"]))
        self.report_text.setVisible(True)
        if message["asks"]:
            self.ask(True)
            self.say(
                f"Some pictures are left out; see the report. Go on trains with {message['training']} "
                f"and validates with {message['validation']}."
            )
        elif self.stop_button.isEnabled():
            self.say("Measuring the base model …")

    def base(self, message: dict[str, Any]) -> None:
        """Show what the base model makes of the validation pictures."""
        self._base = message
        self.plot.base, self.plot.untouched = float(message["mean"]), float(message["untouched"])
        self.plot.update()
        self.legend.setText(f"Canvas: input, target; below: {message['model']}, fine-tuned.")
        self.legend.setVisible(True)
        if not message["old"]:
            self.report_text.setVisible(False)  # the curves take its place
            self.say(f"{message['model']} has {message['mean']:.2f} dB on the validation pictures. First step …")

    def step(self, message: dict[str, Any], *, stopping: bool) -> None:
        """Show a step."""
        step, steps, score = int(message["step"]), int(message["steps"]), message.get("mean")
        self.plot.add(step, steps, float(message["loss"]), score)
        self._last_score = self._last_score if score is None else float(score)
        if message["old"]:
            return
        self._resumed = self._resumed or (step - 1, float(message["seconds"]))
        self.progress_bar.setRange(0, steps)
        self.progress_bar.setValue(step)
        if stopping:
            return
        parts = [f"Step {step} of {steps}", *self._left(step, steps, float(message["seconds"]))]
        text = ", ".join(parts) + "."
        if self._last_score is not None and self._base:
            others = f"{self._base['model']}: {self._base['mean']:.2f}, untouched: {self._base['untouched']:.2f}"
            text += f" Validation: {self._last_score:.2f} dB; {others}."
        self.say(text)

    def _left(self, step: int, steps: int, seconds: float) -> list[str]:
        assert self._resumed is not None
        first, began = self._resumed
        done = step - first - 1
        if done < 1 or step == steps:
            return []
        left = (seconds - began) / done * (steps - step)
        return [f"about {left / 60:.0f} min left" if left >= 90 else f"about {left:.0f} s left"]


def _button(text: str, tip: str) -> QPushButton:
    button = QPushButton(text)
    button.setToolTip(tip)
    button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    return button


def verdict_of(result: dict[str, Any]) -> str:
    """Return the trainer's verdict as a sentence, and a second one on the pictures as they are."""
    text = str(result.get("verdict", "")).rstrip(".")
    if not text:
        return ""
    text = f"{text[:1].upper()}{text[1:]}."
    harm = "" if result["helps"] else " NO model helps here: leave such pictures as they are."
    return f"{text} Untouched they have {result['untouched']:.2f} dB.{harm}"
