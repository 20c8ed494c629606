"""Visits of a BIDS data set as the engine does them: claimed, limited, recorded and published like single scans.

A visit is a `Scan` with members. What brings them together is `neuralprep.groupwise`; here images are read and written.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

import neuralprep
from neuralprep.bids.derivatives import OVERVIEW, VISIT_TABLE, ScanName, with_resolution
from neuralprep.bids.layout import bids_folder
from neuralprep.bids.sidecars import image_sidecar, transform_sidecar, write_json
from neuralprep.bids.visits import CONTRASTS, Visit
from neuralprep.engine.inputs import Scan
from neuralprep.engine.worker import Job, Worker, input_fingerprint, metadata_of, scan_settings
from neuralprep.files import write_atomic
from neuralprep.volume import Volume

if TYPE_CHECKING:
    from neuralprep.grid import Grid
    from neuralprep.groupwise.align import GroupFit, Member
    from neuralprep.groupwise.session import SessionFit, Strip
    from neuralprep.inference.session import Session
    from neuralprep.settings import Settings
    from neuralprep.stages.intensity import Fill
    from neuralprep.transform import Affine

MIDSPACE = "midspace"
#: settings that decide what a visit looks like
_SETTINGS = ("strip", "register", "border_mm", "space", "resolution", "fill")


@dataclass(frozen=True)
class VisitScan(Scan):
    """A visit as an input of the engine; its path is that of its first member.

    Attributes
    ----------
    visit : Visit or None
    members : tuple of Scan
    """

    visit: Visit | None = None
    members: tuple[Scan, ...] = ()

    @property
    def made(self) -> Visit:
        """The visit."""
        assert self.visit is not None
        return self.visit


@dataclass(frozen=True)
class VisitJob(Job):
    """A job whose scans are visits."""

    def worker(self) -> VisitWorker:
        """Make what does the work."""
        return VisitWorker(self)


def visit_scans(visits: Iterable[Visit], scans: Iterable[Scan]) -> list[VisitScan]:
    """Visits as inputs, from the scans they are made of."""
    known = {scan.name: scan for scan in scans}
    made = []
    for visit in visits:
        members = tuple(known[name] for name in visit.members)
        made.append(VisitScan(members[0].path, visit.name, folder=visit.folder, visit=visit, members=members))
    return made


def visit_job(job: Job) -> VisitJob:
    """The job of the visits of a data set whose scans are done with this job."""
    return VisitJob(**{item.name: getattr(job, item.name) for item in fields(Job)})


class VisitWorker(Worker):
    """Brings the images of one visit together."""

    @cached_property
    def _session(self) -> Session:
        from neuralprep.inference.session import open_session

        settings = self.job.settings
        return open_session(settings.model, settings.device, settings.threads)

    @property
    def _threads(self) -> int:
        from neuralprep.inference.session import available_threads

        return self.job.settings.threads or available_threads()

    def _recipe(self, scan: Scan) -> dict[str, Any]:
        assert isinstance(scan, VisitScan)
        job = self.job
        chosen = {name: getattr(job.settings, name) for name in _SETTINGS}
        chosen |= {"frame": job.frame, "native_resolution": job.native_resolution,
                   "more_resolutions": job.more_resolutions}
        recipe = {
            "version": neuralprep.__version__,
            "weights": self._weights,
            "settings": chosen,
            "visit": scan.made.kind,
            "members": scan.made.members,
            "doubts": scan.made.doubts,
            "input": {one.name: input_fingerprint(one) for one in scan.members},
        }
        content: dict[str, Any] = json.loads(json.dumps(recipe))
        return content

    def _make(self, scan: Scan, folder: Path, start: float) -> dict[str, Any]:
        """Read, align and write into the staging folder; what the record tells beside the recipe and the files."""
        assert isinstance(scan, VisitScan)
        bring = self._contrasts if scan.made.kind == CONTRASTS else self._sessions
        told, doubts = bring(scan, folder)
        reasons = [*scan.made.doubts, *doubts]
        return {
            "status": "check" if reasons else "ok",
            "reasons": reasons,
            "seconds": round(time.perf_counter() - start, 3),
            "alignment": told,
        }

    def _contrasts(self, scan: VisitScan, folder: Path) -> tuple[dict[str, Any], list[str]]:
        """All images of a session, on their reference and in the template; what the record tells, and doubts."""
        from neuralprep.groupwise.session import SessionSettings, align_session, look_at_contrast
        from neuralprep.report.registration_figure import group_picture

        settings, threads = self.job.settings, self._threads
        seen = [look_at_contrast(self._session, self._load(one), one.name, ScanName.of(one.name).suffix,
                                 self.job.frame, threads) for one in scan.members]  # fmt: skip
        strip: Strip = "consensus" if settings.strip else "none"
        fit = align_session(seen, SessionSettings(scan.members[0].name, strip, settings.space), threads)
        if fit.distance is not None:
            fit = replace(fit, distance=fit.distance.with_data(fit.distance.data - np.float32(settings.border_mm)))
        members = [one.member for one in seen]
        writer = _Writer(scan, folder, settings, threads)
        for side in self._sides(scan, members, fit):
            mask = None if fit.distance is None else fit.mask(side.grid, side.transforms[0], threads)
            writer.carry(side, members, self._load, mask)
        if fit.distance is not None:
            for one, member, at in zip(scan.members, members, fit.to_reference, strict=True):
                native = _Side("", "", "", "", member.grid, (), "native")
                writer.image("coreg_native_mask", writer.of(one), native, fit.mask(member.grid, at.inverse(), threads))
        brain = members[0].view.judged if fit.distance is None else fit.mask(members[0].grid)
        outlines = [(one.view.judged, at) for one, at in zip(members, fit.to_reference, strict=True)]
        writer.picture(group_picture(self._load(scan.members[0]), brain, outlines).png)
        told, doubts = _judged(members, fit.group)
        if settings.register and not fit.template.good:
            doubts.append("the fit to the template is poor; look at the images in its space")
        return {"Reference": members[0].name, "TemplateScore": round(fit.template.score, 4), **told}, doubts

    def _sessions(self, scan: VisitScan, folder: Path) -> tuple[dict[str, Any], list[str]]:
        """One image of each session, in the middle of all; what the record tells, and doubts."""
        from neuralprep.groupwise.align import GroupSettings, align_group, look_at
        from neuralprep.groupwise.images import average, common_grid, mean_brain
        from neuralprep.report.registration_figure import group_picture
        from neuralprep.stages.intensity import masked

        settings, threads = self.job.settings, self._threads
        members = [look_at(self._session, self._load(one), one.name, ScanName.of(one.name).suffix, self.job.frame,
                           threads) for one in scan.members]  # fmt: skip
        fit = align_group(members, GroupSettings("rigid", "native"))
        grid = common_grid(members, fit.transforms, self._size(scan, native=self.job.native_resolution))
        writer = _Writer(scan, folder, settings, threads)
        means = average(members, fit.transforms, grid, threads=threads, scratch=folder)
        brain = mean_brain(members, fit.transforms, grid, threads)
        places = {contrast: writer.of_visit(contrast) for contrast in means}
        first = places[members[0].contrast]
        uri = f"bids::{scan.folder}/anat/{first.files.stem(VISIT_TABLE['mean'], MIDSPACE)}.nii.gz"
        side = _Side(MIDSPACE, MIDSPACE, uri, "the middle of the sessions", grid, fit.transforms, "other")
        for contrast, mean in means.items():
            writer.image("mean", places[contrast], side, mean)
            if settings.strip:
                writer.image("mean_brain", places[contrast], side, masked(mean, brain, writer.fill))
        writer.carry(side, members, self._load, brain if settings.strip else None)
        outlines = [(one.view.judged, at) for one, at in zip(members, fit.transforms, strict=True)]
        writer.picture(group_picture(means[members[0].contrast], brain, outlines).png)
        told, doubts = _judged(members, fit)
        return {"Space": MIDSPACE, "LargestEntryOfMeanLogarithm": fit.bias, **told}, doubts

    def _load(self, one: Scan) -> Volume:
        from neuralprep.volume import load

        assert self.job.frame != "each"
        return load(one.path, self.job.frame)

    def _size(self, scan: VisitScan, *, native: bool) -> float:
        """Voxel size, mm, of a shared space."""
        first = self._load(scan.members[0]) if native else None
        return scan_settings(self.job.settings, first, native_resolution=native).resolution or 1.0

    def _sides(self, scan: VisitScan, members: Sequence[Member], fit: SessionFit) -> list[_Side]:
        """The reference's space, and the template at each voxel size."""
        from neuralprep.templates import space_grid

        first, job = scan.members[0], self.job
        label = ScanName.of(first.name).suffix
        sides = [_Side(label, label, _uri(first), f"the reference image {first.name}", members[0].grid,
                       fit.to_reference, "other")]  # fmt: skip
        space = job.settings.space
        wanted: list[tuple[str, float]] = [(space, self._size(scan, native=job.native_resolution))]
        for size in job.more_resolutions:
            voxel = self._size(scan, native=True) if size == "native" else size
            wanted.append((with_resolution(space, size), voxel))
        if job.settings.register:
            sides += [_Side(name, space, space, "", space_grid(space, voxel), fit.to_space, "template")
                      for name, voxel in wanted]  # fmt: skip
        return sides


@dataclass(frozen=True)
class _Side:
    """A space that images are carried into: its label in file names, its name, what it refers to, in words."""

    label: str
    name: str
    reference: str
    called: str
    grid: Grid
    transforms: tuple[Affine, ...]
    code: str


@dataclass(frozen=True)
class _Place:
    """What files are called, where they lie, and what their sidecars tell of the scans behind them."""

    files: ScanName
    folder: Path
    sources: list[str]
    raw: Mapping[str, Any]


class _Writer:
    """Writes the files of a visit into a staging folder."""

    def __init__(self, scan: VisitScan, folder: Path, settings: Settings, threads: int) -> None:
        self._scan, self._staging, self._threads = scan, folder, threads
        self.fill = cast("Fill", settings.fill)

    def of(self, one: Scan) -> _Place:
        """Place of the files of one member."""
        below = Path(bids_folder(one.name)).relative_to(self._scan.folder)
        return _Place(ScanName.of(one.name, shared=True), self._made(below), [_uri(one)], metadata_of(one)[0])

    def of_visit(self, suffix: str) -> _Place:
        """Place of the files that belong to all members; to those of one contrast if they show it."""
        name = ScanName(self._scan.name.rpartition("_")[0], suffix, shared=True)
        below = Path(bids_folder(name.prefix + "_")).relative_to(self._scan.folder)
        members = self._scan.members
        shown = [one for one in members if ScanName.of(one.name).suffix == suffix] or members
        return _Place(name, self._made(below), [_uri(one) for one in shown], {})

    def _made(self, below: Path) -> Path:
        folder = self._staging / below
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def carry(
        self, side: _Side, members: Sequence[Member], load: Callable[[Scan], Volume], mask: Volume | None
    ) -> None:
        """All members in one space, each interpolated once, with and without skull; transforms; the mask."""
        from neuralprep.resample import resample
        from neuralprep.stages.intensity import masked

        for one, member, transform in zip(self._scan.members, members, side.transforms, strict=True):
            place = self.of(one)
            carried = resample(load(one), side.grid, transform, threads=self._threads, antialias=True)
            self.image("coreg", place, side, carried)
            if mask is not None:
                self.image("coreg_brain", place, side, masked(carried, mask, self.fill))
            if side.reference != _uri(one):
                self._transforms(place, side, transform, member.grid)
        if mask is not None:
            self.image("coreg_mask", self.of_visit(""), side, mask)

    def image(self, output: str, place: _Place, side: _Side, volume: Volume) -> None:
        """An image and its sidecar."""
        row = VISIT_TABLE[output]
        stem = place.files.stem(row, side.label)
        volume.save(place.folder / f"{stem}.nii.gz", row.dtype, side.code, f"neuralprep {output}")
        told = image_sidecar(row, source="", space=side.reference, resolution=tuple(map(float, side.grid.spacing)),
                             raw=place.raw)  # fmt: skip
        write_json(place.folder / f"{stem}.json", told | {"Sources": place.sources})

    def _transforms(self, place: _Place, side: _Side, transform: Affine, native: Grid) -> None:
        """Both directions in four formats, each with a sidecar."""
        from neuralprep.formats.sets import write_affine_set

        row, label = VISIT_TABLE["coreg_xfm"], place.files.native_beside(side.label)
        for inverse in (False, True):
            affine = transform.inverse() if inverse else transform
            fixed, moving = (native, side.grid) if inverse else (side.grid, native)
            stem = place.files.stem(row, side.label, inverse=inverse)
            write_affine_set(place.folder, stem, affine, fixed, moving)
            told = transform_sidecar(source=place.sources[0], space=side.name, inverse=inverse, native=label,
                                     called=side.called)  # fmt: skip
            write_json(place.folder / f"{stem}.json", told)

    def picture(self, draw: Callable[[], bytes]) -> None:
        """The picture of the pages."""
        write_atomic(self._staging / self._scan.home(self._staging).files.file(OVERVIEW), [draw])


def _uri(one: Scan) -> str:
    return one.uri or one.path.name


def _judged(members: Sequence[Member], fit: GroupFit) -> tuple[dict[str, Any], list[str]]:
    """How well the images agree, and what of that a person should look at."""
    images = [
        {"Name": one.name, "KeypointAgreementMm": round(fit.agreement_mm[k], 3),
         "PairDisagreementMm": None if math.isnan(fit.misses_mm[k]) else round(fit.misses_mm[k], 3)}
        for k, one in enumerate(members)
    ]  # fmt: skip
    doubts = [f"{one.name}: {fit.doubt(k)}; look at the picture" for k, one in enumerate(members) if fit.doubt(k)]
    return {"Method": fit.method, "Images": images}, doubts
