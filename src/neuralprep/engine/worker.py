"""One scan: read, process, write, record. Whatever goes wrong becomes a record with status ``failed``."""

from __future__ import annotations

import errno
import json
import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import neuralprep
from neuralprep.bids.derivatives import with_resolution
from neuralprep.bids.sidecars import json_object, write_json, write_text
from neuralprep.engine import staging
from neuralprep.engine.inputs import IMAGE_ENDINGS, Scan, image_stem
from neuralprep.engine.record import ScanRecord, from_quality, plain_numbers, read_quality
from neuralprep.errors import InputError, NeuralprepError, WeightsError
from neuralprep.files import open_source

if TYPE_CHECKING:
    from neuralprep.pipeline import Result, Settings
    from neuralprep.volume import Volume

_LOG = logging.getLogger(__name__)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
#: settings that change the speed but not the result
_SPEED_ONLY = ("device", "threads")
#: settings that are volumes, and what a user calls them; the record says which files they came from
VOLUMES = {"mask": "mask", "keep": "label"}
#: how files in a folder of masks or labels may be called, after the name of the scan
_TAILS = {"mask": ("", "_mask"), "keep": ("", "_lesion", "_label", "_mask")}
#: template images at the resolution of a finer scan would not fit into memory
_FINEST_MM = 0.5


class Processor(Protocol):
    """What the engine needs of `neuralprep.pipeline.Preprocessor`."""

    def run(self, volume: Volume) -> Result:
        """Process one volume."""
        ...

    def again(self, settings: Settings) -> Processor:
        """A processor for other settings that shares what was loaded."""
        ...


def default_processor(settings: Settings) -> Processor:
    """Make the real preprocessor; imported here because it loads the network."""
    from neuralprep.pipeline import Preprocessor

    return Preprocessor(settings)


@dataclass(frozen=True)
class Job:
    """Everything a worker needs besides the scan; can be sent to another process.

    Parameters
    ----------
    settings : Settings
        Of the pipeline, without mask and label.
    out_dir : Path
        Output folder.
    frame : int, "mean", "each" or None
        Which frame of 4-D inputs; "each" strips all of them, for native images only.
    mask : Path, optional
        A mask file, or a folder of masks named like the scans (``<stem>`` or ``<stem>_mask``).
    keep : Path, optional
        A label file, or a folder of labels (``<stem>``, ``<stem>_lesion``, ``<stem>_label`` or ``<stem>_mask``),
        whose voxels belong to every mask.
    native_resolution : bool
        Template images get the voxel size of the scan: its smallest edge, at least 0.5 mm.
    more_resolutions : tuple of float or "native"
        Voxel sizes in mm that template images are written with besides; their names say ``res-``.
    overwrite : bool
        Redo finished scans.
    make_processor : callable
        Makes the processor from the settings; a module-level function.
    write_report : bool
        Draw the HTML page of the scan.
    """

    settings: Settings
    out_dir: Path
    frame: int | Literal["mean", "each"] | None = None
    mask: Path | None = None
    keep: Path | None = None
    native_resolution: bool = False
    more_resolutions: tuple[float | Literal["native"], ...] = ()
    overwrite: bool = False
    make_processor: Callable[[Settings], Processor] = default_processor
    write_report: bool = True

    def worker(self) -> Worker:
        """Make what does the work."""
        return Worker(self)


class Worker:
    """Processes scans one after the other; the processor is made at the first scan that needs it.

    Parameters
    ----------
    job : Job
        What to do.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._kept: tuple[Settings, Processor] | None = None

    def finished(self, scan: Scan) -> tuple[ScanRecord | None, str]:
        """Look for a complete result of an earlier run with the same input and settings.

        Returns
        -------
        record : ScanRecord or None
            Of the earlier run; None when the scan has to be done.
        why : str
            Why an existing result does not count ("" when there is none).
        """
        content = read_quality(scan.home(self.job.out_dir).quality)
        if content is None or scan.fault:
            return None, ""
        why = "--overwrite" if self.job.overwrite else self._difference(scan, content)
        return (None, why) if why else (from_quality(scan.name, content), "")

    def _difference(self, scan: Scan, content: dict[str, Any]) -> str:
        """Why an existing result is not the one this run would make; "" when it is."""
        try:
            wanted = self._recipe(scan)
        except (OSError, InputError):
            return "the input cannot be read now"
        for part, now in wanted.items():
            before = content.get(part)
            if before == now:
                continue
            if isinstance(before, dict) and isinstance(now, dict):
                keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
                changes = ", ".join(f"{key} {before.get(key)} -> {now.get(key)}" for key in keys)
                return f"{part} changed: {changes}"
            return f"{part} changed: {before} -> {now}"
        folder = scan.home(self.job.out_dir).folder
        missing = [file for file in content.get("files", ()) if not (folder / file).is_file()]
        return f"files are missing: {', '.join(missing)}" if missing else ""

    def _recipe(self, scan: Scan) -> dict[str, Any]:
        """What decides the result, as it stands in the quality record."""
        settings = self.job.settings
        left_out = (*_SPEED_ONLY, *VOLUMES)
        chosen: dict[str, Any] = {
            item.name: getattr(settings, item.name) for item in fields(settings) if item.name not in left_out
        }
        chosen |= {"frame": self.job.frame, "native_resolution": self.job.native_resolution}
        if self.job.more_resolutions:
            chosen["more_resolutions"] = self.job.more_resolutions
        recipe: dict[str, Any] = {
            "version": neuralprep.__version__,
            "weights": self._weights,
            "settings": chosen,
            "input": input_fingerprint(scan),
        }
        for role in VOLUMES:
            path = self._path_of(role, scan)
            recipe[role] = None if path is None else _fingerprint(path)
        return json.loads(json.dumps(recipe))

    @cached_property
    def _weights(self) -> str:
        """Checksum of the weights; "" where there are none, which is a fault of each scan and not of looking."""
        from neuralprep.weights.registry import find_model

        try:
            return find_model(self.job.settings.model).digest
        except WeightsError:
            return ""

    def _path_of(self, role: str, scan: Scan) -> Path | None:
        """The user's mask, or label to keep, of this scan."""
        own: Path | None = getattr(scan, role)
        if own is not None:
            if not own.is_file():
                raise InputError(f"{own}: no such file. The list gives it as the {VOLUMES[role]} of {scan.path.name}.")
            return own
        given: Path | None = getattr(self.job, role)
        if given is None or not given.is_dir():
            return given
        stem = image_stem(scan.path) or scan.path.name  # a DICOM series has no ending
        for name in (f"{stem}{tail}{ending}" for tail in _TAILS[role] for ending in IMAGE_ENDINGS):
            if (given / name).is_file():
                return given / name
        expected = " or ".join(f"{stem}{tail}.nii.gz" for tail in _TAILS[role])
        raise InputError(f"{given}: has no {VOLUMES[role]} for {scan.path.name}. Expected {expected}.")

    def __call__(self, scan: Scan) -> ScanRecord:
        """Process one scan. Never raises for a fault of the scan, the network or the disk."""
        start = time.perf_counter()
        try:
            if scan.fault:
                raise InputError(scan.fault)
            record = self._process(scan, start)
        except Exception as error:
            return self._failed(scan, error, time.perf_counter() - start)
        error_file(self.job.out_dir, scan).unlink(missing_ok=True)
        return record

    def _process(self, scan: Scan, start: float) -> ScanRecord:
        """Make everything in the staging folder, the record last, and publish it."""
        home = scan.home(self.job.out_dir)
        folder = staging.open_staging(self.job.out_dir, scan.name, home)
        try:
            recipe = self._recipe(scan)  # before reading: a file that changes while it is read is redone
            told = self._make(scan, folder, start)
            files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
            content = {"scan": scan.name, **told, "source": str(scan.path), **recipe, "files": files}
            write_json(folder / home.quality.name, content)
            staging.publish(folder, self.job.out_dir, scan.name, home)
        finally:
            staging.discard(folder)
        return replace(from_quality(scan.name, content), reused=False)

    def _make(self, scan: Scan, folder: Path, start: float) -> dict[str, Any]:
        """Read, run and write into the staging folder; what the record tells beside the recipe and the files."""
        from neuralprep.engine.writer import Origin, write_outputs
        from neuralprep.pipeline import template_images

        home = scan.home(self.job.out_dir)
        result, read_s = self._result(scan, folder)
        before_write = time.perf_counter()
        raw, faults = metadata_of(scan)
        origin = Origin(scan.uri or scan.path.name, raw)
        write_outputs(result, folder, home.files, origin, self.job.frame)
        for size in self.job.more_resolutions:
            settings = scan_settings(result.settings, result.scan, native_resolution=size == "native")
            other = template_images(result, (settings.resolution or 1.0) if size == "native" else size)
            write_outputs(other, folder, home.files, origin, space=with_resolution(settings.space, size))
        if self.job.write_report:
            from neuralprep.report import write_scan

            so_far = {"source": str(scan.path), "seconds": time.perf_counter() - start}
            write_scan(result, folder, scan.name, so_far, files=home.files)
        seconds = time.perf_counter() - start
        timings = {"read": read_s, **result.timings, "write": time.perf_counter() - before_write}
        quality = result.quality
        return {
            "status": quality.decision,
            "reasons": list(quality.reasons),
            "measures": plain_numbers(quality.measures),
            "notes": [*result.scan.notes, *quality.notes, *faults],
            "seconds": round(seconds, 3),
            "timings": plain_numbers(timings),
            "given": {role: str(path) for role in VOLUMES if (path := self._path_of(role, scan)) is not None},
            "execution": {name: getattr(result.settings, name) for name in _SPEED_ONLY},
            "outputs": list(result.outputs),
            "provenance": result.provenance,
        }

    def _result(self, scan: Scan, folder: Path) -> tuple[Result, float]:
        """What the pipeline makes of a scan, and the seconds that reading took."""
        start = time.perf_counter()
        if self.job.frame == "each":
            if scan.series is not None:
                raise InputError(f"{scan.path}: a DICOM series is read as one volume; leave out --frame each")
            from neuralprep.engine.frames import process_frames
            from neuralprep.engine.writer import series_targets

            processor = self._processor_for(scan, None)
            outputs = self.job.settings.outputs or ()
            return process_frames(scan.path, processor, series_targets(outputs, folder, scan.home(folder).files)), 0.0
        from neuralprep.engine.images import read_scan

        volume = read_scan(scan, self.job.frame, folder)
        read_s = time.perf_counter() - start
        return self._processor_for(scan, volume).run(volume), read_s

    def _processor_for(self, scan: Scan, volume: Volume | None) -> Processor:
        """The processor; it keeps its network where this scan needs other settings than the one before."""
        from neuralprep.volume import load

        settings = scan_settings(self.job.settings, volume, native_resolution=self.job.native_resolution)
        paths = {role: self._path_of(role, scan) for role in VOLUMES}
        given: dict[str, Any] = {
            role: load(path, checks=False) for role, path in paths.items() if path is not None
        }
        if self._kept is None:
            self._kept = settings, self.job.make_processor(settings)
        if given:
            return self._kept[1].again(replace(settings, **given))
        if self._kept[0].resolution != settings.resolution:
            self._kept = settings, self._kept[1].again(settings)
        return self._kept[1]

    def _failed(self, scan: Scan, error: Exception, seconds: float) -> ScanRecord:
        """Record a fault, also in a file beside the scan folders, with the traceback of one that nobody foresaw."""
        reason = explain(error, self.job.out_dir)
        if scan.home(self.job.out_dir).quality.exists() and not isinstance(error, InputError):
            reason += " (the folder holds an older result)"
        _LOG.debug("%s failed", scan.name, exc_info=error)
        try:
            foreseen = isinstance(error, NeuralprepError)
            text = "" if foreseen else "\n" + "".join(traceback.format_exception(error))
            write_text(error_file(self.job.out_dir, scan), f"{scan.path}\n{reason}\n{text}")
        except InputError as second:
            reason += f" (and there is no error file: {second})"
        return ScanRecord(scan.name, str(scan.path), "failed", (reason,), seconds)


def scan_settings(settings: Settings, volume: Volume | None, *, native_resolution: bool) -> Settings:
    """Settings of a job for one scan: template images get its voxel size if that was asked for."""
    if not native_resolution or volume is None:
        return settings
    return replace(settings, resolution=round(max(_FINEST_MM, min(volume.grid.spacing)), 3))


def explain(error: Exception, out_dir: Path) -> str:
    """One line a user can act on: class, message and, for common faults, what to do.

    Parameters
    ----------
    error : Exception
        What was raised.
    out_dir : Path
        Output folder, named when the disk is full.
    """
    kind = type(error).__name__
    if isinstance(error, MemoryError):
        return f"{kind}: not enough memory for this scan. Use fewer --jobs or a machine with more memory."
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return f"{kind}: no space left for {out_dir}. Free some and run again: finished scans are kept."
    if isinstance(error, PermissionError):
        return f"{kind}: {error.filename}: permission denied. Change its permissions or choose another folder."
    message = " ".join(str(error).split()) or "no message"
    return f"{kind}: {message}"


def metadata_of(scan: Scan) -> tuple[dict[str, Any], list[str]]:
    """What the JSON files of a scan say of it, and which of them cannot be read."""
    found: dict[str, Any] = {}
    faults = []
    for path in scan.sidecars:
        content = json_object(path)
        if content is None:
            faults.append(f"{path} is not valid JSON: its metadata are left out.")
            _LOG.warning("%s: %s", scan.name, faults[-1])
        found |= content or {}
    return found, faults


def error_file(out_dir: Path, scan: Scan) -> Path:
    """Where the fault of a failed scan is told at length."""
    return out_dir / f"{scan.name}.error.txt"


def input_fingerprint(scan: Scan) -> dict[str, Any]:
    """What tells the content of a scan from that of another one in its place.

    Raises
    ------
    InputError
        It is not there.
    """
    return scan.series.fingerprint() if scan.series else _fingerprint(scan.path)


def _fingerprint(path: Path) -> dict[str, int]:
    """Size and time of change of a file: a changed input is processed again."""
    try:
        info = path.stat()
    except FileNotFoundError:
        with open_source(path):  # tells a link to data that were not fetched from a wrong path
            raise
    return {"size": info.st_size, "mtime_ns": info.st_mtime_ns}
