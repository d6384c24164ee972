"""What came of a run, in words for the status line and for napari's notifications."""

from __future__ import annotations

from napari_dmgn.plugin import conservation, likeness
from napari_dmgn.plugin.worker import Failed, Restored

__all__ = ["failure", "stopped_by", "summary"]


def failure(name: str, outcome: Failed) -> str:
    """Say that nothing of a layer could be restored."""
    return f"Could not restore '{name}': {outcome.message}"


def stopped_by(name: str, outcome: Restored, *, added: bool = True) -> str:
    """Say what stopped a run in the middle, and what became of its frames; empty where nothing did."""
    if outcome.problem is None:
        return ""
    done, frames = outcome.provenance["frames_done"], outcome.provenance["frames"]
    message = outcome.problem.message.rstrip(".")
    became = "added" if added else "done"
    return f"Could not restore all of '{name}': {message}. The first {done} of {frames} frames were {became}."


def summary(name: str, outcome: Restored, *, gone: bool) -> str:
    """Sum a run up in a few lines.

    Parameters
    ----------
    name : of the layer when the run started
    outcome : with layers to add
    gone : whether the layer was removed meanwhile
    """
    provenance = outcome.provenance
    done, frames = provenance["frames_done"], provenance["frames"]
    if done < frames:
        parts = [] if outcome.problem is None else [f"Frame {done + 1} failed: {outcome.problem.message}\n"]
        parts += [f"Stopped: {done} of {frames} frames of '{name}' are done and were added; Resume does the others"]
    else:
        parts = [f"Restored '{name}'"]
    if isinstance(provenance.get("seconds"), int | float):
        parts.append(f" in {provenance['seconds']:.1f} s")
    if provenance.get("device"):
        parts.append(f" on {str(provenance['device']).upper()}")
    if (factor := provenance.get("downscale", 1)) > 1:
        parts.append(f", the network at 1/{factor} size")
    if provenance.get("ensemble"):
        parts.append(", and mirrored")
    parts.append(".")
    for key, what in (("clipped_pixels", "clipped to the data type"), ("nonfinite_pixels", "NaN or infinite")):
        if provenance.get(key):
            parts.append(f" {provenance[key]} pixels {what}.")
    parts += [f" {text}." for text in provenance.get("fallbacks") or ()]
    if (error := provenance.get("halo_error")) is not None:
        where = "3 windows" if done == 1 else "3 windows of each frame"
        parts.append(f" Tiles differ from the whole by up to {_percent(error)} of the range at a pixel ({where}).")
    if outcome.unfinished is not None and (folder := outcome.unfinished.volume.folder) is not None:
        parts.append(f" They are in the folder {folder}, where a later run with the same settings goes on, too.")
    if gone:
        parts.append(" The layer was removed meanwhile; its results were added all the same.")
    if unlike := likeness.sentence(provenance.get("unlike") or []):
        parts.append(f"\n{unlike}")
    parts.append(f"\n{conservation.sentence(provenance['conservation'])}")
    return "".join(parts)


def _percent(share: float) -> str:
    """Two digits; what is less than a hundredth of a percent is of no interest."""
    percent = max(share * 100, 0.01)
    return f"{percent:.{2 if percent < 1 else 1 if percent < 10 else 0}f} %"
