"""Uploaded scans: kept in a folder of their own, processed one at a time, removed after an age and at the end."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from neuralprep.bids.derivatives import OVERVIEW, REPORT, ScanName
from neuralprep.engine.inputs import IMAGE_ENDINGS, distinct_names, image_stem
from neuralprep.engine.run import Silent, run_batch
from neuralprep.engine.worker import Job, Processor
from neuralprep.errors import InputError, NeuralprepError
from neuralprep.files import atomic_path
from neuralprep.pipeline import Preprocessor, Settings
from neuralprep.report import measures

if TYPE_CHECKING:
    from neuralprep.engine.record import ScanRecord
    from neuralprep.steps import State, Step

State_ = Literal["waiting", "running", "ok", "check", "failed"]
#: told the name of a step that begins, how many are done, and how many there are
Say = Callable[[str, int, int], None]
MakeProcessor = Callable[[Say, Settings], Processor]

PREFIX = "neuralprep-serve-"
_HEARTBEAT = "alive"
_ABANDONED_S = 3600.0
_MAX_BYTES = 100  # of a stem: names of outputs are longer, and file systems end at 255
_SPARE_BYTES = 1 << 30  # results of a scan, and room for everybody else


@dataclass(frozen=True)
class Limits:
    """What the server takes.

    Parameters
    ----------
    scan_bytes : int
        Largest file.
    scans : int
        Scans that are kept, finished or not.
    keep_s : float
        Age in seconds at which a finished scan is removed.
    """

    scan_bytes: int = 1 << 30
    scans: int = 20
    keep_s: float = 24 * 3600.0


@dataclass
class UploadedScan:
    """One scan and how far it is.

    Parameters
    ----------
    key : str
        Random name of its folder and in its addresses.
    title : str
        Name of the file as the person knows it; never used as a path.
    path : Path
        The uploaded file.
    settings : Settings
        What to do.
    frame : int, "mean" or None
        Which frame of a 4-D image.
    """

    key: str
    title: str
    path: Path
    settings: Settings
    frame: int | Literal["mean"] | None
    state: State_ = "waiting"
    step: str = ""
    progress: tuple[int, int] = (0, 0)
    changed: float = field(default_factory=time.monotonic)
    removed: bool = False
    record: ScanRecord | None = None
    reasons: tuple[str, ...] = ()

    @property
    def out_dir(self) -> Path:
        """Where the results are."""
        return self.path.parent.parent / "results"

    def say(self, step: str, done: int, of: int) -> None:
        """Note that a step begins; a scan that was removed stops here."""
        if self.removed:
            raise InputError("stopped, because the scan was removed")
        self.step, self.progress = step, (done, of)


class KeptNetwork:
    """Makes processors that share one loaded network and tell which step begins."""

    def __init__(self) -> None:
        self._first: Preprocessor | None = None

    def __call__(self, say: Say, settings: Settings) -> Processor:
        """A processor for these settings; the first one loads the network."""
        if self._first is None:
            say("loading the network", 0, 1)
            self._first = Preprocessor(settings)
        processor = self._first.again(settings)
        count = len(processor.steps)
        processor.steps = [replace(step, work=partial(_announced, step, say, number, count + 1))
                           for number, step in enumerate(processor.steps)]  # fmt: skip
        return processor


def _announced(step: Step, say: Say, number: int, count: int, state: State) -> dict[str, Any]:
    say(step.name, number, count)
    return step.work(state)


class ScanQueue:
    """Takes scans, processes them in order, and forgets them.

    Parameters
    ----------
    settings : Settings
        For every scan; a scan's own choices are put on top.
    limits : Limits
        What is taken.
    parent : Path, optional
        Where the folder of this queue is made; the system's folder for temporary files by default. Only this user can
        look into it.
    make_processor : callable, optional
        Makes what processes a scan.

    Raises
    ------
    InputError
        The folder cannot be made.
    """

    def __init__(self, settings: Settings, limits: Limits, parent: Path | None = None,
                 make_processor: MakeProcessor | None = None) -> None:
        self.settings, self.limits = settings, limits
        parent = parent or Path(tempfile.gettempdir())
        try:
            sweep_abandoned(parent)
            self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)).resolve()
            (self.folder / _HEARTBEAT).touch()
        except OSError as error:
            raise InputError(f"{parent}: no folder can be made there ({error.strerror}); give --work-dir") from error
        self._make = make_processor or KeptNetwork()
        self._scans: dict[str, UploadedScan] = {}
        self._coming = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scan")
        self._swept = time.monotonic()

    def settings_for(self, changes: dict[str, Any]) -> Settings:
        """Settings of one scan; checked before anything is uploaded."""
        return replace(self.settings, **changes)

    def receive(self, title: str, blocks: Iterable[bytes], size: int, settings: Settings,
                frame: int | Literal["mean"] | None = None) -> UploadedScan:
        """Store an upload and put it at the end of the queue.

        Parameters
        ----------
        title : str
            Name of the file as the browser gives it.
        blocks : iterable of bytes
            Its content; written as it comes.
        size : int
            Bytes that were announced.
        settings, frame
            What to do.

        Raises
        ------
        InputError
            No image by its name, no room, or too many scans.
        """
        name = _file_name(title)
        self._enter(size)
        key, scan = secrets.token_urlsafe(12), None
        folder = self.folder / key / "upload"
        try:
            folder.mkdir(parents=True)
            with atomic_path(folder / name) as temporary, temporary.open("xb") as stream:
                for block in blocks:
                    stream.write(block)
            scan = UploadedScan(key, title, folder / name, settings, frame)
        finally:
            with self._lock:
                self._coming -= 1
                if scan is not None:  # both at once: two uploads that end together keep their order
                    self._scans[key] = scan
                    work = self._pool.submit(self._process, scan)
            if scan is None:
                self._delete(key)
        work.add_done_callback(partial(self._finished, scan))
        return scan

    def scans(self) -> list[UploadedScan]:
        """All scans, in the order in which they came."""
        with self._lock:
            return list(self._scans.values())

    def find(self, key: str) -> UploadedScan | None:
        """The scan with this key."""
        with self._lock:
            return self._scans.get(key)

    def remove(self, key: str) -> bool:
        """Forget a scan and delete its files; one that is being processed stops before its next step."""
        with self._lock:
            scan = self._scans.pop(key, None)
        if scan is None:
            return False
        scan.removed = True
        if scan.state != "running":
            self._delete(key)
        return True

    def sweep(self, every_s: float = 30.0) -> None:
        """Remove finished scans that are too old; cheap to call often."""
        now = time.monotonic()
        if now - self._swept < every_s:
            return
        self._swept = now
        with contextlib.suppress(OSError):
            os.utime(self.folder / _HEARTBEAT)
        for scan in self.scans():
            if scan.state not in ("waiting", "running") and now - scan.changed > self.limits.keep_s:
                self.remove(scan.key)

    def close(self) -> None:
        """Stop after the step that runs, and delete everything."""
        for scan in self.scans():
            scan.removed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _enter(self, size: int) -> None:
        """Take a place in the queue for an upload that begins."""
        free = shutil.disk_usage(self.folder).free
        if free < size + _SPARE_BYTES:
            raise InputError(f"there is no room for {size / 1e6:.0f} MB in {self.folder.parent}: free some, or start "
                             "the server with another --work-dir")  # fmt: skip
        with self._lock:
            if len(self._scans) + self._coming >= self.limits.scans:
                raise InputError(f"{self.limits.scans} scans are here already: remove some first")
            self._coming += 1

    def _process(self, scan: UploadedScan) -> None:
        scan.state, scan.changed = "running", time.monotonic()
        scan.say("reading", 0, 1)
        job = Job(scan.settings, scan.out_dir, frame=scan.frame, make_processor=partial(self._make, scan.say))
        scan.record = run_batch([scan.path], job, progress=Silent())[0]

    def _finished(self, scan: UploadedScan, done: Future[None]) -> None:
        """Note how it went, whatever happened."""
        scan.path.unlink(missing_ok=True)
        scan.changed = time.monotonic()
        try:
            fault = done.exception()
        except CancelledError:
            return
        if scan.removed:
            self._delete(scan.key)
        elif fault is not None:
            known = isinstance(fault, NeuralprepError)
            scan.reasons = (str(fault) if known else f"{type(fault).__name__}: {fault}",)
            scan.state = "failed"
        elif scan.record is not None:
            scan.reasons = tuple(text.replace(str(scan.path), scan.title) for text in scan.record.reasons)
            scan.state = scan.record.status

    def _delete(self, key: str) -> None:
        shutil.rmtree(self.folder / key, ignore_errors=True)


def describe(scan: UploadedScan, ahead: int) -> dict[str, Any]:
    """What the page shows of a scan; addresses are below that of the scan.

    Parameters
    ----------
    scan : UploadedScan
        The scan.
    ahead : int
        Scans that come before it.
    """
    shown: dict[str, Any] = {
        "key": scan.key, "title": scan.title, "state": scan.state, "step": scan.step, "ahead": ahead,
        "done": scan.progress[0], "of": scan.progress[1], "reasons": list(scan.reasons), "measures": [],
        "for_s": round(time.monotonic() - scan.changed, 1), "picture": "", "report": "", "outputs": "",
    }  # fmt: skip
    if scan.record is None or scan.state not in ("ok", "check"):
        return shown
    name, files = scan.record.scan, ScanName.of(scan.record.scan)
    rows = [row for row in measures.rows(scan.record.measures) if row.name in measures.KEY_MEASURES]
    shown["measures"] = [{"label": row.short, "value": row.value, "state": row.state} for row in rows]
    shown |= {"picture": f"{name}/{files.file(OVERVIEW)}", "report": f"{name}/{files.file(REPORT)}",
              "outputs": f"{files.prefix}_neuralprep.zip", "seconds": round(scan.record.seconds, 1)}  # fmt: skip
    return shown


def pack(scan: UploadedScan) -> BinaryIO:
    """All results of a scan as a zip file that is gone when it is closed."""
    stream = tempfile.TemporaryFile(dir=scan.out_dir.parent)  # noqa: SIM115 (the caller closes it)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:  # images are compressed already
        for path in sorted(scan.out_dir.rglob("*")):
            relative = path.relative_to(scan.out_dir)
            if path.is_file() and not any(part.startswith(".") for part in relative.parts):
                archive.write(path, Path("neuralprep", relative))
    stream.seek(0)
    return stream


def sweep_abandoned(parent: Path) -> None:
    """Delete folders that servers of this user left behind when they were killed."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            info = (folder / _HEARTBEAT).stat()
        except OSError:
            continue
        mine = not hasattr(os, "getuid") or info.st_uid == os.getuid()
        if mine and not folder.is_symlink() and time.time() - info.st_mtime > _ABANDONED_S:
            shutil.rmtree(folder, ignore_errors=True)


def _file_name(title: str) -> str:
    """A file name that is safe anywhere and keeps what the title says: its stem, shortened, and its ending."""
    base = Path(title.replace("\\", "/").rpartition("/")[2].replace("\0", ""))
    stem = image_stem(base)
    if stem is None:
        raise InputError(f"not an image that can be read: give one of {', '.join(IMAGE_ENDINGS)}")
    name = distinct_names([base], {}, [])[base]
    ending = base.name[len(stem) :].lower()
    if len(name.encode()) > _MAX_BYTES:  # the end stays, because it says the contrast
        end = name[-16:]
        name = name.encode()[: _MAX_BYTES - len(end.encode())].decode("utf-8", "ignore") + end
    return name + ending
