"""The curves of a sweep as a picture, and as TensorBoard event files. Nothing is computed here.

Exceptions: launch.errors.MissingExtra from `draw` where matplotlib is not installed.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from launch.errors import MissingExtra
from launch.sweep.curves import SettingCurve

_DOTS_AN_INCH = 100


def draw(curves: Sequence[SettingCurve], title: str, path: Path) -> None:
    """Writes a PNG: for each setting its mean and, with several runs, the band of its interval.

    Raises:
      MissingExtra: matplotlib is not installed.
    """
    # Some loggers of matplotlib tell of fonts.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and slow to load
    except ModuleNotFoundError as error:
        raise MissingExtra("the picture needs the plots extra: pip install 'temper[plots]'") from error
    figure = Figure(figsize=(7.0, 4.2), dpi=_DOTS_AN_INCH, layout="constrained")
    axes = figure.add_subplot()
    for curve in curves:
        runs = f"{curve.runs} {'run' if curve.runs == 1 else 'runs'}"
        (line,) = axes.plot(curve.env_steps, curve.mean, label=f"{curve.name} ({runs})", linewidth=1.5)
        if curve.runs > 1:
            axes.fill_between(curve.env_steps, curve.low, curve.high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("training return: mean, 95% interval over seeds")
    axes.set_title(title)
    axes.grid(visible=True, alpha=0.3)
    if curves:
        axes.legend(fontsize="small")
    unfinished = path.with_suffix(".unfinished.png")
    figure.savefig(unfinished, format="png", metadata={"Software": None})
    unfinished.replace(path)


def write_events(curves: Sequence[SettingCurve], directory: Path) -> None:
    """Writes one event file for each setting, in place of those that are there: sweep/return_mean, _low and _high."""
    from tensorboardX import SummaryWriter  # noqa: PLC0415 - loads slowly

    shutil.rmtree(directory, ignore_errors=True)
    for curve in curves:
        with SummaryWriter(str(directory / curve.name)) as board:
            for step, *figures in zip(curve.env_steps, curve.mean, curve.low, curve.high, strict=True):
                for name, value in zip(("mean", "low", "high"), figures, strict=True):
                    if math.isfinite(value):
                        board.add_scalar(f"sweep/return_{name}", float(value), round(step))
