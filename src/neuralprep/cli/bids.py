"""``neuralprep bids BIDS_DIR OUT {participant,group}``: the BIDS App."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from neuralprep.cli.arguments import positive_integer
from neuralprep.cli.batch import add_execution, conclude, watch_batch
from neuralprep.cli.run import add_outputs, add_steps, conflict, job_from, outputs_text, resolution

if TYPE_CHECKING:
    from neuralprep.bids.dataset import Dataset, Image
    from neuralprep.engine.dispatch import Tell
    from neuralprep.engine.inputs import Scan
    from neuralprep.engine.record import ScanRecord
    from neuralprep.engine.worker import Job

#: names of the scan's own space in --output-spaces
_NATIVE = ("native", "orig", "anat", "T1w", "T2w", "FLAIR")
#: options of other BIDS Apps that cannot take effect here, and why
_REFUSED = {
    ("-w", "--work-dir"): "there are no working files: scans are written to OUT and appear when they are complete",
    ("--fs-license-file",): "FreeSurfer is not used",
    ("--task-id", "-t"): "only anatomical images are processed",
}
#: arguments that always take effect, or are accepted without one
_EVERYWHERE = ("verb", "bids_dir", "out", "level", "quiet", "verbose", "skip_bids_validation", "random_seed", "error",
               "default_of")  # fmt: skip
#: those that choose images
_SELECTION = ("participant_label", "session_id", "run_id", "suffix", "bids_filter_file")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the arguments."""
    from neuralprep.bids.dataset import ON_REQUEST, STRUCTURAL
    from neuralprep.bids.derivatives import VISITS
    from neuralprep.cli import EXIT_CODES

    parser = subparsers.add_parser(
        "bids",
        help="process a BIDS data set into BIDS derivatives",
        description=(
            "BIDS App. participant: strip, normalise and register every anatomical image of a data set; may run as "
            "several processes with different participants on one OUT. group: one table and page of all measures."
        ),
        epilog=f"suffixes taken by default: {', '.join(STRUCTURAL)}\nif named: {', '.join(ON_REQUEST)}\n\n"
               f"{outputs_text()}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(error=parser.error, default_of=parser.get_default, more_resolutions=())
    parser.add_argument("bids_dir", type=Path, metavar="BIDS_DIR", help="top folder of the raw data set")
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder, such as BIDS_DIR/derivatives/neuralprep")
    parser.add_argument("level", choices=("participant", "group"), help="what to do")
    _add_selection(parser)
    add_steps(parser)
    add_outputs(parser)
    parser.add_argument("--output-spaces", nargs="+", metavar="SPACE[:res-MM]",
                        help="standard space at one or more resolutions, or 'native' alone for none")  # fmt: skip
    parser.add_argument("--visits", nargs="+", choices=VISITS, default=[], metavar="KIND",
                        help="bring images together as well: contrasts (all images of a session, on its T1w and in "
                             "standard space, under one mask), longitudinal (the sessions of a participant, in their "
                             "unbiased middle)")  # fmt: skip
    add_execution(parser)
    parser.add_argument("--nprocs", "--n-procs", "--n_cpus", dest="jobs", type=positive_integer,
                        default=argparse.SUPPRESS, metavar="N", help="the same as --jobs")  # fmt: skip
    parser.add_argument("--omp-nthreads", dest="threads", type=positive_integer, default=argparse.SUPPRESS,
                        metavar="N", help="the same as --threads")  # fmt: skip
    parser.add_argument("--reports-only", action="store_true",
                        help="draw pages and write tables of finished scans again; process nothing")  # fmt: skip
    parser.add_argument("--skip-bids-validation", "--skip_bids_validation", action="store_true",
                        help="accepted, because other BIDS Apps have it; nothing is validated in any case")  # fmt: skip
    parser.add_argument("--random-seed", "--random_seed", type=int, metavar="N",
                        help="accepted, because other BIDS Apps have it; results do not depend on it")  # fmt: skip
    for names, why in _REFUSED.items():
        parser.add_argument(*names, action=_Refuse, why=why, nargs="?", help=argparse.SUPPRESS)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    """Flags that choose images."""
    group = parser.add_argument_group("images")
    group.add_argument("--participant-label", "--participant_label", nargs="+", default=[], metavar="LABEL",
                       help="participants, with or without sub-; default all")  # fmt: skip
    group.add_argument("--session-id", "--session-label", "--session_label", nargs="+", default=[], metavar="LABEL",
                       help="sessions, with or without ses-; default all")  # fmt: skip
    group.add_argument("--run-id", "--run-label", nargs="+", default=[], metavar="N",
                       help="runs, with or without run-; default all")  # fmt: skip
    group.add_argument("--suffix", nargs="+", default=[], metavar="NAME", help="contrasts, such as T1w FLAIR")
    group.add_argument("--bids-filter-file", type=Path, metavar="FILE",
                       help='JSON such as {"t1w": {"acquisition": "mprage"}, "flair": {"run": 1}}')  # fmt: skip


class _Refuse(argparse.Action):
    """An option that cannot take effect: says why."""

    def __init__(self, option_strings: Sequence[str], dest: str, why: str, **more: Any) -> None:
        super().__init__(option_strings, dest, **more)
        self._why = why

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        """Stop with the reason."""
        parser.error(f"{self.option_strings[-1]} has no effect: {self._why}. Leave it out.")


def execute(args: argparse.Namespace) -> int:
    """Run one level; the exit code."""
    args.out = args.out.expanduser()
    if args.level == "group":
        _only(args, (), "on the group level")
        return _group(args)
    if args.reports_only:
        _only(args, (*_SELECTION, "reports_only"), "with --reports-only")
    _take_spaces(args)
    wrong = conflict(args) or _visits_conflict(args)
    if wrong:
        args.error(wrong)
    return _participant(args)


def _visits_conflict(args: argparse.Namespace) -> str:
    """A flag that would not take effect on visits, in words; "" when all do."""
    for flag, given in (("--mask", args.mask), ("--keep-label", args.keep_label), ("--no-csf", args.no_csf)):
        if args.visits and given:
            return f"{flag} has no effect on --visits, whose masks come from all images of a visit: leave one out"
    return ""


def _only(args: argparse.Namespace, names: Sequence[str], where: str) -> None:
    """Refuse arguments other than these, which would have no effect."""
    for name, value in vars(args).items():
        default = args.default_of(name)
        if name not in (*_EVERYWHERE, *names) and value != (None if default == argparse.SUPPRESS else default):
            flag = {"lam": "lambda"}.get(name, name.replace("_", "-"))
            args.error(f"--{flag} has no effect {where}: leave it out")


def _take_spaces(args: argparse.Namespace) -> None:
    """Turn --output-spaces into --space, --res and --no-register."""
    if not args.output_spaces:
        return
    for flag, value in (("--space", args.space), ("--res", args.res), ("--no-register", args.no_register)):
        if value:
            args.error(f"--output-spaces and {flag} say the same: leave one of them out")
    standard = [text for text in args.output_spaces if text.partition(":")[0] not in _NATIVE]
    if not standard:
        args.no_register = True
        return
    found = dict.fromkeys(_space(text, args) for text in sorted(standard, key=lambda text: ":" in text))
    (args.space, args.res), *more = found
    if any(space != args.space for space, _ in more):
        spaces = ", ".join(dict.fromkeys(space for space, _ in found))
        args.error(f"one standard space at a time can be made, not {spaces}: run again with another OUT")
    args.more_resolutions = tuple(size for _, size in more)
    if more and args.outputs is not None:
        _check_sources(args)


def _check_sources(args: argparse.Namespace) -> None:
    """Refuse --outputs that leave nothing to make images of several voxel sizes of, or none of those images."""
    from neuralprep.bids.derivatives import BY_OUTPUT

    needed = ["template_from_scan", *([] if args.no_normalize else ["preproc"])]
    lacking = [name for name in needed if name not in args.outputs]
    if lacking:
        args.error(f"several resolutions are made from {' and '.join(needed)}: add {','.join(lacking)} to --outputs")
    if not any(BY_OUTPUT[name].in_template and BY_OUTPUT[name].kind != "xfm" for name in args.outputs):
        args.error("several resolutions have no effect without an image in standard space in --outputs")


def _space(text: str, args: argparse.Namespace) -> tuple[str, Any]:
    """Name and resolution of a standard space."""
    from neuralprep.templates import SPACES

    name, *modifiers = text.split(":")
    if name not in SPACES:
        args.error(f"--output-spaces {name} cannot be made. There are {', '.join(SPACES)}, and native for the scan's "
                   "own space.")
    voxel = None
    for modifier in modifiers:
        key, _, value = modifier.partition("-")
        if key != "res":
            args.error(f"--output-spaces {text}: there is no {modifier!r}; only res-MM and res-native can be chosen")
        try:
            voxel = resolution(value)
        except argparse.ArgumentTypeError as error:
            args.error(f"--output-spaces {text}: {error}")
    return name, voxel


def _participant(args: argparse.Namespace) -> int:
    """Process the chosen images and bring the tables and pages up to date."""
    from neuralprep.bids.dataset import read_dataset
    from neuralprep.bids.derived import check_places, write_dataset_files
    from neuralprep.engine.run import prepare_output

    root = args.bids_dir.expanduser()
    dataset = read_dataset(root, args.participant_label, args.session_id)
    check_places(root, args.out)
    images, messages = _choose(args, dataset)
    if not args.quiet:
        for text in (*dataset.messages, *messages):
            print(f"neuralprep: {text}", file=sys.stderr)
    job = replace(job_from(args), more_resolutions=args.more_resolutions)
    prepare_output(args.out)
    write_dataset_files(args.out, root, dataset.description)
    subjects = {f"sub-{image.entities['sub']}" for image in images}
    args.inputs = scans_of(images)
    if args.reports_only:
        return _reports(args, subjects)
    try:
        records = watch_batch(args, job)
        visits = _visits(args, job, records) if args.visits else []
    finally:  # what is finished has its pages, also after an interrupt
        _write_pages(args.out, subjects)
    if args.viewer:
        from neuralprep.review.layers import write_viewers

        for fault in write_viewers(args.out, records):
            print(f"neuralprep: {fault}", file=sys.stderr)
    return conclude(args, [*records, *visits])


def _visits(args: argparse.Namespace, job: Job, records: Sequence[ScanRecord]) -> list[ScanRecord]:
    """Bring the images of visits together, as far as they are finished."""
    from neuralprep.bids.visits import find_visits
    from neuralprep.engine.visits import visit_job, visit_scans

    failed = {record.scan for record in records if record.status == "failed"}
    visits, messages = find_visits([scan.name for scan in args.inputs], failed, args.visits)
    for text in messages:
        _to_terminal(args)(text)
    args.inputs = visit_scans(visits, args.inputs)
    return watch_batch(args, visit_job(job)) if visits else []


def _choose(args: argparse.Namespace, dataset: Dataset) -> tuple[list[Image], list[str]]:
    """Images that the flags choose.

    Raises
    ------
    InputError
        None is left.
    """
    from neuralprep.bids.dataset import SUFFIXES
    from neuralprep.bids.selection import read_filters, select
    from neuralprep.errors import InputError

    unknown = [suffix for suffix in args.suffix if suffix not in SUFFIXES]
    if unknown:
        args.error(f"--suffix {unknown[0]} is no anatomical image. Known are {', '.join(SUFFIXES)}.")
    queries, messages = read_filters(args.bids_filter_file) if args.bids_filter_file else ([], [])
    images, told = select(dataset.images, args.suffix, args.run_id, queries)
    messages = [*messages, *told]
    if not images:
        why = "; ".join([*dataset.messages, *messages]) or "its anat folders have none"
        raise InputError(f"{dataset.root}: no image to process: {why}.")
    return images, messages


def scans_of(images: Sequence[Image]) -> list[Scan]:
    """Images of a data set as the engine takes them."""
    from neuralprep.bids.derived import raw_uri
    from neuralprep.engine.inputs import Scan

    return [
        Scan(image.path.absolute(), image.stem, folder=image.relative.rpartition("/")[0], uri=raw_uri(image.relative),
             sidecars=image.sidecars)
        for image in images
    ]  # fmt: skip


def _write_pages(out: Path, subjects: set[str]) -> None:
    """Pages and the methods text of an output folder, from what is in it."""
    from neuralprep.engine.record import bids_records, read_status, records_of, tables_locked
    from neuralprep.report import write_index, write_subjects

    with tables_locked(out):
        records = records_of(read_status(out))
        write_index(out, records)
        write_subjects(out, records, subjects)
        _write_methods(out, bids_records(out))


def _write_methods(out: Path, contents: Mapping[str, dict[str, Any]]) -> None:
    """The methods text: what was done to single scans, then to visits."""
    from neuralprep.bids.sidecars import write_text
    from neuralprep.bids.visits import methods
    from neuralprep.engine.record import visit_records
    from neuralprep.report import write_citation

    path, more = write_citation(out, contents.values()), methods(visit_records(out).values())
    if path and more:
        write_text(path, path.read_text(encoding="utf-8") + more)


def _reports(args: argparse.Namespace, subjects: set[str]) -> int:
    """--reports-only: the pages of the chosen scans, then those of the whole folder."""
    from neuralprep.cli import EXIT_FAILED, EXIT_OK
    from neuralprep.engine.record import bids_records, from_quality, read_status, visit_records, write_status
    from neuralprep.engine.run import log_file
    from neuralprep.errors import InputError

    contents = bids_records(args.out)
    if not contents:
        raise InputError(f"{args.out}: has no finished scan to report on. Run without --reports-only first.")
    with log_file(args.out, _to_terminal(args)) as tell:
        _redraw(args, contents, tell)
    found = [from_quality(name, content) for name, content in (contents | visit_records(args.out)).items()]
    write_status(args.out, found)
    _write_pages(args.out, subjects)
    if not args.quiet:
        print(f"report: {args.out / 'index.html'}")
    return EXIT_FAILED if any(row["status"] == "failed" for row in read_status(args.out)) else EXIT_OK


def _to_terminal(args: argparse.Namespace) -> Tell:
    """Shows messages on standard error unless they are not wanted."""

    def tell(text: str) -> None:
        if not args.quiet:
            print(f"neuralprep: {text}", file=sys.stderr)

    return tell


def _redraw(args: argparse.Namespace, contents: Mapping[str, dict[str, Any]], tell: Tell) -> None:
    """Draw the pages of the chosen scans that are finished; what cannot be drawn is told and stops nothing."""
    from neuralprep.engine.redraw import redraw
    from neuralprep.errors import NeuralprepError

    scans = {scan.name: scan for scan in args.inputs}
    drawn = 0
    for name, content in contents.items():
        if name not in scans:
            if not any(getattr(args, choice) for choice in _SELECTION):
                tell(f"{name}: page left as it is: its scan is not among the images that are chosen now.")
            continue
        try:
            redraw(scans[name], scans[name].home(args.out), content)
        except NeuralprepError as error:
            tell(f"{name}: page left as it is: {error}")
        else:
            drawn += 1
    tell(f"{drawn} of {len(contents)} pages of scans drawn again")


def _group(args: argparse.Namespace) -> int:
    """The group level: table and pages."""
    from neuralprep.cli import EXIT_FAILED, EXIT_OK
    from neuralprep.engine.record import bids_records, is_visit, read_status, records_of, tables_locked
    from neuralprep.errors import InputError
    from neuralprep.report import write_group_level

    contents = bids_records(args.out) if args.out.is_dir() else {}
    rows = records_of(read_status(args.out))
    failed = [record for record in rows if record.status == "failed" and not is_visit(record.scan)]
    if not contents and not failed:
        raise InputError(f"{args.out}: has no results of the participant level. Run that first.")
    with tables_locked(args.out):
        page, outliers = write_group_level(args.out, contents, failed)
        _write_methods(args.out, contents)
    if not args.quiet:
        print(f"{len(contents)} scans, {len(failed)} failed, {outliers} with outlying measures\n"
              f"table: {args.out / 'group.tsv'}\nreport: {page}")
    return EXIT_FAILED if failed else EXIT_OK
