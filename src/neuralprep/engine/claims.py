"""Which process works on which scan: one small file per claim, so that several runs can share an output folder.

A claim is a file in ``OUT/.claims`` that only one process can create. It names its host and process, and its time of
change is renewed every few seconds, so that a claim whose process has died is known for dead: at once on the same
machine, after `STALE_S` from another one. Whoever goes on with the scan of a dead claim creates the next
*generation*; the files before it stay until the scan is settled and count how many processes died of it. Creating a
file that must not exist is the one operation that all shared file systems do atomically; nothing is ever renamed over
a claim or locked. A file is removed by the process that made it, or when that is dead: names come again, and whoever
removed the file of a living process by its name might remove the next one's.

Ages are taken from the clock of the file system, never from that of a machine.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

FOLDER = ".claims"
#: how the notes of runs and the folders with their keys begin, which lie beside the claims
RUN, CREDENTIALS = "@run-", ".tls-"
#: seconds between two signs of life
HEARTBEAT_S = 10.0
#: a claim from another machine without a sign of life for so long is dead (file systems cache times for a minute)
STALE_S = 180.0
#: clocks are set while processes run, which moves the time at which they seem to have started
_START_TOLERANCE_S = 60.0
_TRACE = ".trace"
#: what file systems without hard links answer
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True)
class Claim:
    """A scan that this process has to itself.

    Parameters
    ----------
    name : str
        Name of the scan.
    path : Path
        File of the claim.
    deaths : int
        Processes that died with this scan.
    trace : str
        What the last of them was doing when its time was up ("" when it died otherwise).
    """

    name: str
    path: Path
    deaths: int = 0
    trace: str = ""

    @property
    def trace_path(self) -> Path:
        """Where the process writes what it is doing when its time is up."""
        return self.path.with_suffix(_TRACE)


@dataclass(frozen=True)
class Held:
    """A claim as others see it.

    Parameters
    ----------
    name : str
        Name of the scan.
    host, pid
        Who holds it; "" and 0 where the file cannot be read.
    age_s : float
        Since it was taken.
    alive : bool
        Whether its process may still be at work.
    """

    name: str
    host: str
    pid: int
    age_s: float
    alive: bool

    def __str__(self) -> str:
        return f"{self.host or 'another machine'} (process {self.pid})"


class Claims:
    """The claims of one output folder.

    Parameters
    ----------
    out_dir : Path
        The output folder.
    stale_s : float
        Seconds after which a claim of another machine is dead.
    """

    def __init__(self, out_dir: Path, stale_s: float = STALE_S) -> None:
        self.folder = out_dir / FOLDER
        self._stale_s = stale_s

    def take(self, name: str) -> Claim | Held:
        """Claim a scan; who has it, when it is somebody else's.

        Raises
        ------
        OSError
            The folder cannot be written.
        """
        while True:
            now, before = self.now(), self._generations(name)
            seen = [self._look(name, path, now) for path in before.values()]
            holder = _living(seen)
            if holder is not None:
                return holder
            if None in seen:  # released meanwhile, which is no death
                continue
            path = self.folder / f"{name}@{max(before, default=-1) + 1}.json"
            if not self._create(path, now):
                continue  # another process was faster: look at its claim
            rivals = [self._look(name, p, now) for p in self._generations(name).values() if p != path]
            rival = _living(rivals)
            if rival is not None:  # both step back rather than both go on
                path.unlink(missing_ok=True)
                time.sleep(secrets.randbelow(100) / 1000)
                return rival
            beat(path)
            return Claim(name, path, len(before), _last_trace(before))

    def deaths(self, name: str) -> int:
        """How many dead claims there are on a scan."""
        now = self.now()
        return sum(self._dead(path, now) for path in self._generations(name).values())

    def free(self, name: str) -> bool:
        """Whether nobody works on a scan."""
        now = self.now()
        return _living(self._look(name, path, now) for path in self._generations(name).values()) is None

    def release(self, claim: Claim) -> None:
        """Settle a scan: the dead claims on it go, and then this one."""
        stop_beating(claim.path)
        with suppress(OSError):  # a claim that cannot be removed dies with this process
            now = self.now()
            dead = [path for path in self._generations(claim.name).values() if self._dead(path, now)]
            for path in [*dead, claim.path]:
                path.with_suffix(_TRACE).unlink(missing_ok=True)
                path.unlink(missing_ok=True)

    def now(self) -> float:
        """The time, by the clock of the file system that keeps the claims."""
        with suppress(OSError):
            self.folder.mkdir(exist_ok=True)
            os.utime(self.folder)
            return self.folder.stat().st_mtime
        return time.time()

    def all(self) -> list[Held]:
        """Every claim, by name; of a scan with dead claims only the last one."""
        paths = {path.name.rpartition("@")[0]: path for path in sorted(self._files(), key=_generation)}
        now = self.now() if paths else 0.0
        seen = [self._look(name, path, now) for name, path in sorted(paths.items())]
        return [held for held in seen if held is not None]

    def recover(self) -> None:
        """Drop the files of processes that are gone: it was the end of their run, not the scan, that killed them."""
        if not self.folder.is_dir():
            return
        now = self.now()
        for path in self.folder.glob("*.json"):
            if self._dead(path, now):
                path.with_suffix(_TRACE).unlink(missing_ok=True)
                path.unlink(missing_ok=True)
        if not any(self.folder.glob(f"{RUN}*.json")):
            for credentials in self.folder.glob(f"{CREDENTIALS}*"):
                shutil.rmtree(credentials, ignore_errors=True)
        for draft in self.folder.glob(".*"):
            with suppress(OSError):
                if _abandoned(draft) or now - draft.stat().st_mtime > self._stale_s:
                    draft.unlink()

    def close(self) -> None:
        """Remove the folder of claims when nobody needs it any more."""
        with suppress(OSError):
            self.folder.rmdir()

    def _files(self) -> Iterator[Path]:
        """Files of claims on scans."""
        try:
            paths = list(self.folder.iterdir())
        except FileNotFoundError:
            return
        for path in paths:
            if path.name.endswith(".json") and path.name.rpartition("@")[0]:
                yield path

    def _generations(self, name: str) -> dict[int, Path]:
        """Claims on one scan by their number, in order."""
        found = [path for path in self._files() if path.name.rpartition("@")[0] == name]
        return {_generation(path): path for path in sorted(found, key=_generation)}

    def _create(self, path: Path, since: float) -> bool:
        """Create the file of a claim with its content at once; False when there is one."""
        text = json.dumps(owner() | {"since": since})
        draft = path.with_name(f".{os.getpid()}-{secrets.token_hex(6)}")
        while True:
            with suppress(FileExistsError):
                self.folder.mkdir()
            try:
                draft.write_text(text, encoding="utf-8")
                _link(draft, path, text)
            except FileExistsError:
                return False
            except FileNotFoundError:  # another run has just removed the empty folder
                continue
            else:
                return True
            finally:
                draft.unlink(missing_ok=True)

    def _dead(self, path: Path, now: float) -> bool:
        """Whether a claim is there and its process is not."""
        held = self._look("", path, now)
        return held is not None and not held.alive

    def _look(self, name: str, path: Path, now: float) -> Held | None:
        """Read the file of a claim; None when it is gone."""
        content = read_owner(path)
        if content is None:
            return None
        alive = is_alive(content, path, now, self._stale_s)
        return Held(name, content["host"], content["pid"], max(0.0, now - content["since"]), alive)


def _living(seen: Iterable[Held | None]) -> Held | None:
    """The first claim whose process may still be at work."""
    return next((held for held in seen if held is not None and held.alive), None)


def _link(draft: Path, path: Path, text: str) -> None:
    """Give a file its name if no file has it; FileExistsError if one has."""
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with path.open("x", encoding="utf-8") as stream:  # a reader may see it empty, and takes it for alive
            stream.write(text)


def read_owner(path: Path) -> dict[str, Any] | None:
    """Content of a file that `owner` is part of; None when it is gone."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {"host": "", "pid": 0, "since": 0.0, **content}
    except OSError:
        return None
    except ValueError:
        return {"host": "", "pid": 0, "since": 0.0}


def is_alive(content: dict[str, Any], path: Path, now: float, stale_s: float = STALE_S) -> bool:
    """Whether the process that wrote a file may still be at work."""
    me = owner()
    if all(content.get(key) == me[key] for key in ("host", "namespace")):
        return _running(content["pid"], content.get("started", 0.0))
    try:
        return now - path.stat().st_mtime < stale_s
    except OSError:
        return False


@cache
def _of_process(pid: int) -> dict[str, Any]:
    """What tells a process from all others, on any machine."""
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino  # two containers may share a host name
    except OSError:
        namespace = 0
    started = psutil.Process(pid).create_time()
    return {"host": socket.gethostname(), "namespace": namespace, "pid": pid, "started": started}


def owner() -> dict[str, Any]:
    """Identity of this process, as it stands in files."""
    return _of_process(os.getpid())


def _abandoned(draft: Path) -> bool:
    """Whether no process here has the number in a draft's name. One of another machine would just write it anew."""
    pid = draft.name[1:].partition("-")[0]
    return pid.isdigit() and not _running(int(pid))


def _running(pid: int, started: float | None = None) -> bool:
    """Whether a process of this machine lives: the one that started then, if that is known, not one of its number."""
    try:
        process = psutil.Process(pid)
        same = started is None or abs(process.create_time() - started) < _START_TOLERANCE_S
        return same and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _generation(path: Path) -> int:
    number = path.stem.rpartition("@")[2]
    return int(number) if number.isdigit() else -1


def _last_trace(before: dict[int, Path]) -> str:
    """What the process of the last dead claim wrote when its time was up."""
    for path in reversed(before.values()):
        with suppress(OSError):
            return path.with_suffix(_TRACE).read_text(encoding="utf-8", errors="replace")
    return ""


_beating: set[Path] = set()
_lock = threading.Lock()
_thread: threading.Thread | None = None


def beat(path: Path) -> None:
    """Renew the time of change of a file as long as this process lives."""
    global _thread
    with _lock:
        _beating.add(path)
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_keep_beating, name="claims", daemon=True)
            _thread.start()


def stop_beating(path: Path) -> None:
    """Let the time of change of a file stand."""
    with _lock:
        _beating.discard(path)


def _keep_beating() -> None:
    """Touch all claims of this process; ends when there has been none for a while."""
    global _thread
    idle = 0
    while idle < 2:
        time.sleep(HEARTBEAT_S)
        with _lock:
            paths = list(_beating)
            idle = 0 if paths else idle + 1
            if idle == 2:
                _thread = None
        for path in paths:
            with suppress(OSError):
                os.utime(path)
