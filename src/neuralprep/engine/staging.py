"""Scan folders appear whole or not at all.

A scan is written into ``.partial-<name>@<host>-<pid>`` inside the output folder and renamed as the last step, so a
killed run leaves no half-written scan.  A folder that is replaced steps aside as ``.old-...`` first; what a person
has put into it moves over to the new one.

A scan that shares its folder with others moves in file by file: its record, which says that it is finished, goes
first of what is replaced and comes last of what is new.
"""

from __future__ import annotations

import glob
import os
import shutil
import socket
import time
from pathlib import Path

from neuralprep.bids.layout import Home, home_in
from neuralprep.engine.record import read_quality
from neuralprep.errors import InputError

_PARTIAL, _OLD = ".partial-", ".old-"
#: a staging folder of another machine is taken for dead after this long
_FOREIGN_AGE_S = 24 * 3600
_PART_AGE_S = 60


def _owner() -> str:
    """Host and process that own a staging folder, as they stand in its name."""
    return f"{socket.gethostname()}-{os.getpid()}"


def open_staging(out_dir: Path, name: str, home: Home | None = None) -> Path:
    """Make the empty staging folder of a scan; without a home it has a folder of its own.

    Raises
    ------
    InputError
        A folder of this name exists that this program did not write.
    """
    home = home or home_in(out_dir, name)
    final = home.folder
    foreign = not home.files.shared and final.exists() and read_quality(home.quality) is None
    if foreign and not (final.is_dir() and not any(final.iterdir())):
        raise InputError(
            f"{final}: exists and is no finished scan of neuralprep, so it is not replaced. "
            "Move it away or choose another output folder."
        )
    staging = out_dir / f"{_PARTIAL}{name}@{_owner()}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    return staging


def publish(staging: Path, out_dir: Path, name: str, home: Home | None = None) -> None:
    """Put a finished staging folder in its place, by rename."""
    home = home or home_in(out_dir, name)
    if home.files.shared:
        _move_in(staging, home)
        return
    final = home.folder
    if not final.exists():
        staging.replace(final)
        return
    old = out_dir / f"{_OLD}{name}@{_owner()}"
    shutil.rmtree(old, ignore_errors=True)
    own = _own_files(final)
    final.replace(old)
    staging.replace(final)
    _carry_over(old, final, own)


def _move_in(staging: Path, home: Home) -> None:
    """Put the files of a scan into the folder it shares with others, in place of its earlier ones.

    Those of a visit of several sessions lie in folders below.
    """
    home.folder.mkdir(parents=True, exist_ok=True)
    before = (read_quality(home.quality) or {}).get("files", ())
    home.quality.unlink(missing_ok=True)
    staged = (path.relative_to(staging) for path in staging.rglob("*") if path.is_file())
    new = sorted(path for path in staged if path.name != home.quality.name)
    for path in new:
        (home.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (staging / path).replace(home.folder / path)
    for path in {Path(str(file)) for file in before} - set(new):
        if not path.is_absolute() and ".." not in path.parts:
            (home.folder / path).unlink(missing_ok=True)
    (staging / home.quality.name).replace(home.quality)


def discard(staging: Path) -> None:
    """Remove a staging folder; one that is published is gone already."""
    shutil.rmtree(staging, ignore_errors=True)


def discard_all(out_dir: Path, name: str) -> None:
    """Remove every staging folder of a scan, whoever made it: for a process that has the scan to itself."""
    for folder in out_dir.glob(f"{_PARTIAL}{glob.escape(name)}@*"):
        discard(folder)


def recover(out_dir: Path) -> list[str]:
    """Clear what killed runs left behind.

    Parameters
    ----------
    out_dir : Path
        Output folder.

    Returns
    -------
    list of str
        What was done, in words.
    """
    messages = []
    for file in out_dir.glob(".np-*.part"):  # of `neuralprep.files.atomic_path`; a table is written in no time
        if time.time() - file.stat().st_mtime > _PART_AGE_S:
            file.unlink(missing_ok=True)
    for folder in sorted(out_dir.glob(".*-*")):
        prefix = next((p for p in (_PARTIAL, _OLD) if folder.name.startswith(p)), None)
        if prefix is None or not folder.is_dir() or _alive(folder):
            continue
        if prefix == _PARTIAL:
            shutil.rmtree(folder, ignore_errors=True)
            messages.append(f"removed the unfinished folder {folder.name} of a run that was stopped")
        else:
            _restore(folder, out_dir)
    return messages


def _restore(old: Path, out_dir: Path) -> None:
    """A run was stopped between the two renames, or before it had carried over a person's files."""
    final = out_dir / old.name.removeprefix(_OLD).partition("@")[0]
    if final.exists():
        _carry_over(old, final, _own_files(old))
    else:
        old.replace(final)


def _own_files(folder: Path) -> frozenset[str]:
    """Relative names of the files this program wrote into a scan folder."""
    for path in folder.glob("*_quality.json"):
        content = read_quality(path)
        if content is not None:
            return frozenset([*content.get("files", ()), path.name])
    return frozenset()


def _carry_over(old: Path, final: Path, own: frozenset[str]) -> None:
    """Move files that a person added, then remove the rest of a replaced folder."""
    for path in sorted(old.rglob("*")):
        relative = path.relative_to(old)
        target = final / relative
        if path.is_file() and relative.as_posix() not in own and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def _alive(folder: Path) -> bool:
    """Whether the process that owns a staging folder may still be at work."""
    host, _, pid = folder.name.rpartition("@")[2].rpartition("-")
    if host != socket.gethostname() or not pid.isdigit() or os.name == "nt":
        return time.time() - folder.stat().st_mtime < _FOREIGN_AGE_S
    if int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(int(pid))


def _is_zombie(pid: int) -> bool:
    """Whether a process is dead but not yet reaped, as orphans in a container without an init stay for ever."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:  # gone meanwhile, or no /proc on this system
        return False
    return bool(state) and state[0] in "ZX"
