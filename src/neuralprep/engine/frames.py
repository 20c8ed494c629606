"""Every frame of a 4-D scan: stripped one by one, written as one series, judged as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neuralprep.engine.images import SeriesWriter
from neuralprep.errors import InputError
from neuralprep.volume import load_frames

if TYPE_CHECKING:
    from neuralprep.engine.worker import Processor
    from neuralprep.pipeline import Result
    from neuralprep.stages.quality import Quality

_SHOWN = 3


def process_frames(scan: Path, processor: Processor, targets: Mapping[str, Path]) -> Result:
    """Strip each frame and write one series per output.

    Parameters
    ----------
    scan : Path
        A 4-D image, or a 3-D one, which has one frame.
    processor : Processor
        Applied to every frame.
    targets : mapping of output name to Path
        NIfTI files to write or replace.

    Returns
    -------
    Result
        Of the first frame, with the timings of all added up and the quality of all: medians of the measures, and
        the reasons of the frames that ask for a check.

    Raises
    ------
    InputError
        A frame cannot be stripped; which one is said.
    """
    for path in targets.values():
        if not path.name.lower().endswith((".nii", ".nii.gz")):
            raise InputError(f"{path}: a series of frames is written as NIfTI; name a .nii or .nii.gz file")
    first: Result | None = None
    judged: list[Quality] = []
    timings: dict[str, float] = {}
    writer: SeriesWriter | None = None
    try:
        for index, volume in enumerate(load_frames(scan)):
            try:
                result = processor.run(volume)
            except InputError as error:
                raise InputError(f"frame {index}: {error}") from error
            first = first or result
            writer = writer or SeriesWriter(scan, dict(targets), result.settings.fill)
            writer.add(result)
            judged.append(result.quality)
            for step, seconds in result.timings.items():
                timings[step] = timings.get(step, 0.0) + seconds
        assert first is not None
        assert writer is not None
        writer.finish(first.scan.grid.affine)
    finally:
        if writer is not None:
            writer.discard()
    return replace(first, quality=judged_together(judged), timings=timings)


def judged_together(frames: Sequence[Quality]) -> Quality:
    """One judgement of a series from those of its frames."""
    if len(frames) == 1:
        return frames[0]
    names = dict.fromkeys(name for frame in frames for name in frame.measures)
    measures = {name: float(np.median([f.measures[name] for f in frames if name in f.measures])) for name in names}
    doubtful = [index for index, frame in enumerate(frames) if frame.decision != "ok"]
    measures |= {"frames": float(len(frames)), "frames_to_check": float(len(doubtful))}
    reasons = [f"frame {index}: {reason}" for index in doubtful[:_SHOWN] for reason in frames[index].reasons]
    if len(doubtful) > _SHOWN:
        reasons.append(f"{len(doubtful) - _SHOWN} more of the {len(frames)} frames ask for a check.")
    notes = list(dict.fromkeys(f"frame {i}: {note}" for i, frame in enumerate(frames[:_SHOWN]) for note in frame.notes))
    return replace(frames[0], measures=measures, decision="check" if doubtful else "ok", reasons=tuple(reasons),
                   notes=tuple(notes))
