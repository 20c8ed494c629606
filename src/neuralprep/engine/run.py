"""A batch: expand the inputs, skip what is finished, process the rest, keep the tables of the output folder true."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import neuralprep
from neuralprep.bids.sidecars import DESCRIPTION_FILE, dataset_description, write_json
from neuralprep.engine import staging
from neuralprep.engine.attempt import Task
from neuralprep.engine.claims import Claims
from neuralprep.engine.cluster import Execution, check
from neuralprep.engine.dispatch import Tell, process
from neuralprep.engine.inputs import Scan, expand, image_stem
from neuralprep.engine.overview import RunNote
from neuralprep.engine.record import ScanRecord, finished_scans, read_status, records_of, write_status
from neuralprep.engine.worker import Job
from neuralprep.errors import InputError

LOG_FILE = "neuralprep.log"
_LOG = logging.getLogger("neuralprep.engine")
#: least seconds between two rewrites of the status table: resuming many finished scans would rewrite it for each
_STATUS_INTERVAL_S = 0.5
#: share of the time of a batch that may go into rewriting the table, whatever its length
_STATUS_SHARE = 0.03


class Progress(Protocol):
    """What a batch tells whoever watches it."""

    def begin(self, total: int) -> None:
        """`total` scans were found."""

    def message(self, text: str) -> None:
        """Something a user should know."""

    def done(self, record: ScanRecord) -> None:
        """A scan is finished, failed or was finished before."""


class Silent:
    """A progress that nobody watches."""

    def begin(self, total: int) -> None:
        """Ignore it."""

    def message(self, text: str) -> None:
        """Ignore it."""

    def done(self, record: ScanRecord) -> None:
        """Ignore it."""


def run_batch(
    inputs: Sequence[str | Path | Scan],
    job: Job,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
    execution: Execution | None = None,
) -> list[ScanRecord]:
    """Process all inputs into ``job.out_dir``.

    Parameters
    ----------
    inputs : sequence of str, Path or Scan
        Files, folders, globs and lists; scans that are ready.
    job : Job
        Settings and output folder.
    jobs : int
        Processes of this machine that work side by side.
    progress : Progress, optional
        Watches the batch.
    execution : Execution, optional
        Workers elsewhere and limits, instead of `jobs`.

    Returns
    -------
    list of ScanRecord
        One per scan, in the order of the inputs.

    Raises
    ------
    InputError
        Nothing can be done: no input, an output folder that cannot be written, or a cluster that cannot be used.
    """
    progress = progress or Silent()
    execution = execution or Execution(jobs)
    check(execution)
    job = _anywhere(job)
    prepare_output(job.out_dir)
    with log_file(job.out_dir, progress.message) as message:
        for text in staging.recover(job.out_dir):
            message(text)
        found = expand(inputs, job.out_dir, finished_scans(job.out_dir))
        for text in found.messages:
            message(text)
        _check_companions(job, len(found.scans))
        progress.begin(len(found.scans))
        _LOG.info("neuralprep %s: %d scans, settings %s", neuralprep.__version__, len(found.scans), job.settings)
        records: dict[str, ScanRecord] = {}
        table = _StatusTable(job.out_dir, message)
        with _noted(job.out_dir, len(found.scans), execution) as note:
            try:
                for record in _records(job, found.scans, execution, message):
                    records[record.scan] = record
                    _LOG.info("%s: %s in %.1f s %s", record.scan, _verb(record), record.seconds,
                              "; ".join(record.reasons))
                    table.update(records)
                    note.count(record)
                    progress.done(record)
            finally:
                table.update(records, final=True)
                staging.recover(job.out_dir)  # of processes that were killed
        if job.write_report:
            from neuralprep.report import write_index

            write_index(job.out_dir, records_of(read_status(job.out_dir)))
    return [records[scan.name] for scan in found.scans]


def prepare_output(out_dir: Path) -> None:
    """Make the output folder and its description.

    Raises
    ------
    InputError
        It cannot be made or written.
    """
    if image_stem(out_dir) is not None or out_dir.is_file():
        raise InputError(f"{out_dir}: the last argument is the output folder, and this names a file.")
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise InputError(f"{out_dir}: cannot make the output folder ({why}). Choose another one.") from error
    write_json(out_dir / DESCRIPTION_FILE, dataset_description(out_dir))


def _anywhere(job: Job) -> Job:
    """The job with paths that hold on machines with another working directory too."""
    mask, keep = (path and path.absolute() for path in (job.mask, job.keep))
    return replace(job, out_dir=job.out_dir.absolute(), mask=mask, keep=keep)


def _check_companions(job: Job, count: int) -> None:
    """Refuse one mask or label for many scans."""
    for given, kind in ((job.mask, "mask"), (job.keep, "label")):
        if given is not None and not given.is_dir() and count > 1:
            raise InputError(
                f"{given}: one {kind} cannot serve {count} scans. Give a folder of {kind}s named like them."
            )


@contextmanager
def _noted(out_dir: Path, count: int, execution: Execution) -> Iterator[RunNote]:
    """Say in the output folder that a run is on, and leave no claim behind."""
    claims = Claims(out_dir)
    claims.recover()
    where = execution.cluster or "this machine"
    note = RunNote(out_dir, count, f"{where}, {execution.jobs} at a time")
    try:
        yield note
    finally:
        note.close()
        claims.recover()
        claims.close()


def _records(job: Job, scans: Sequence[Scan], execution: Execution, message: Tell) -> Iterator[ScanRecord]:
    """Finished scans first, then the others as they complete."""
    task = Task(secrets.token_hex(6), job, Claims(job.out_dir).now(), execution.time_limit_s, execution.deaths)
    worker = job.worker()
    todo = []
    for scan in scans:
        record, why = worker.finished(scan)
        if record is not None:
            yield record
            continue
        if why:
            message(f"{scan.name}: done again, {why}")
        todo.append(scan)
    yield from process(task, todo, execution, message)


def _verb(record: ScanRecord) -> str:
    return f"{record.status} (finished before)" if record.reused else record.status


class _StatusTable:
    """Keeps ``status.tsv`` up to date; a table that cannot be written is a message, not the end of the batch."""

    def __init__(self, out_dir: Path, message: Tell) -> None:
        self._out_dir, self._message = out_dir, message
        self._next = 0.0
        self._complained = False

    def update(self, records: dict[str, ScanRecord], *, final: bool = False) -> None:
        """Rewrite the table unless it was rewritten a moment ago; the longer it takes, the longer the moment."""
        start = time.monotonic()
        if not final and start < self._next:
            return
        try:
            write_status(self._out_dir, records.values())
        except InputError as error:
            if not self._complained:
                self._message(f"the status table is out of date: {error}")
            self._complained = True
        end = time.monotonic()
        self._next = end + max(_STATUS_INTERVAL_S, (end - start) / _STATUS_SHARE)


@contextmanager
def log_file(out_dir: Path, tell: Tell) -> Iterator[Tell]:
    """Log into the output folder; gives a function that logs a message and tells it.

    Parameters
    ----------
    out_dir : Path
        Existing output folder.
    tell : callable
        Shows a message to whoever watches.
    """
    logger = logging.getLogger("neuralprep")
    handler = logging.FileHandler(out_dir / LOG_FILE, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = logger.level
    warned = logging.getLogger("py.warnings")  # what libraries warn of, where the command captures it
    logger.addHandler(handler)
    warned.addHandler(handler)
    logger.setLevel(min(level or logging.INFO, logging.INFO))

    def message(text: str) -> None:
        _LOG.info(text)
        tell(text)

    try:
        yield message
    finally:
        logger.removeHandler(handler)
        warned.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
