from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from neuralprep.engine import claims
from neuralprep.engine.claims import FOLDER, STALE_S, Claim, Claims, Held

TAKE = """
import sys
from pathlib import Path
from neuralprep.engine.claims import Claims
print(type(Claims(Path(sys.argv[1])).take(sys.argv[2])).__name__, flush=True)
sys.stdin.read()
"""


def hold_elsewhere(out: Path, name: str) -> subprocess.Popen:
    """A process that has claimed a scan and lives until it is ended, or this one is."""
    process = subprocess.Popen([sys.executable, "-c", TAKE, str(out), name], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "Claim"
    return process


def end(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def foreign(out: Path, name: str, age_s: float, generation: int = 0) -> Path:
    """A claim of a process on another machine whose last sign of life is so old."""
    (out / FOLDER).mkdir(exist_ok=True)
    path = out / FOLDER / f"{name}@{generation}.json"
    path.write_text(json.dumps({"host": "node7", "namespace": 1, "pid": 77, "started": 1.0, "since": 1.0}))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_never_two_at_once(tmp_path: Path) -> None:
    holders: Counter[str] = Counter()
    got: Counter[str] = Counter()
    clashes = []
    names = [f"scan{number}" for number in range(3)]
    lock, deadline = threading.Lock(), time.monotonic() + 300

    def work(number: int) -> None:
        """Go on until every scan has been had by somebody often enough."""
        mine, turn = Claims(tmp_path), number
        while min(got[name] for name in names) < 8 and time.monotonic() < deadline:
            turn += 1
            name = names[turn % 3]
            claim = mine.take(name)
            if isinstance(claim, Held):
                continue
            with lock:
                holders[name] += 1
                got[name] += 1
                clashes.extend([name] if holders[name] > 1 else [])
            time.sleep(0.001)
            with lock:
                holders[name] -= 1
            mine.release(claim)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not clashes
    assert min(got[name] for name in names) >= 8
    Claims(tmp_path).close()
    assert not list(tmp_path.iterdir())


def test_who_lets_go_removes_his_own_file_and_those_of_the_dead(tmp_path: Path) -> None:
    """Not that of a living process which is about to step back: its name may soon be another's."""
    dead = foreign(tmp_path, "a", age_s=3600)
    mine = Claims(tmp_path)
    claim = mine.take("a")
    assert isinstance(claim, Claim)
    assert claim.deaths == 1
    rival = foreign(tmp_path, "a", age_s=0, generation=2)
    mine.release(claim)
    assert rival.exists()
    assert not claim.path.exists()
    assert not dead.exists()


def test_a_claim_that_is_let_go_while_one_looks_is_no_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = foreign(tmp_path, "a", age_s=0)
    list_files = Claims._generations

    def listed_and_released(self: Claims, name: str) -> dict[int, Path]:
        found = list_files(self, name)
        gone.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Claims, "_generations", listed_and_released)
    claim = Claims(tmp_path).take("a")
    assert isinstance(claim, Claim)
    assert claim.deaths == 0


def test_a_killed_process_loses_its_claim_and_is_counted(tmp_path: Path) -> None:
    mine = Claims(tmp_path)
    for deaths in range(3):
        other = hold_elsewhere(tmp_path, "a")
        held = mine.take("a")
        assert isinstance(held, Held)
        assert (held.pid, held.alive) == (other.pid, True)
        assert not mine.free("a")
        end(other)
        assert mine.free("a")
        assert mine.deaths("a") == deaths + 1
    claim = mine.take("a")
    assert isinstance(claim, Claim)
    assert (claim.deaths, claim.trace) == (3, "")
    mine.release(claim)
    assert mine.deaths("a") == 0


def test_another_machine_is_known_by_its_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Claims(tmp_path)
    path = foreign(tmp_path, "a", STALE_S / 3)
    held = mine.take("a")
    assert isinstance(held, Held)
    assert str(held) == "node7 (process 77)"
    # the clock of this machine is wrong by an hour: the file system's counts
    monkeypatch.setattr(time, "time", lambda: 3600.0 + tmp_path.stat().st_mtime)
    assert isinstance(mine.take("a"), Held)
    foreign(tmp_path, "a", 3600 + STALE_S + 20)
    claim = mine.take("a")
    assert isinstance(claim, Claim)
    assert claim.deaths == 1
    mine.release(claim)
    assert not path.exists()


def test_a_number_of_a_process_is_not_its_identity(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "a@0.json").write_text(json.dumps(claims.owner() | {"started": 1.0, "since": 1.0}))
    assert isinstance(Claims(tmp_path).take("a"), Claim)


def test_recovery_drops_the_dead_only(tmp_path: Path) -> None:
    dead, live = foreign(tmp_path, "a", STALE_S + 20), foreign(tmp_path, "b", 0)
    draft = tmp_path / FOLDER / ".0123"
    draft.touch()
    os.utime(draft, (1, 1))
    dead.with_suffix(".trace").touch()
    mine = Claims(tmp_path)
    mine.recover()
    assert list((tmp_path / FOLDER).iterdir()) == [live]
    mine.close()
    assert live.exists()


def test_a_file_system_without_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    mine = Claims(tmp_path)
    claim = mine.take("a")
    assert isinstance(claim, Claim)
    assert isinstance(mine.take("a"), Held)
    mine.release(claim)
    assert not list((tmp_path / FOLDER).iterdir())


def test_claims_give_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(claims, "_thread", None)
    mine = Claims(tmp_path)
    claim = mine.take("a")
    os.utime(claim.path, (1, 1))
    deadline = time.monotonic() + 120
    while claim.path.stat().st_mtime < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert claim.path.stat().st_mtime > 2
    mine.release(claim)
    assert mine.all() == []


def test_the_draft_of_a_dead_process_goes_at_once_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    here = Claims(tmp_path)
    here.folder.mkdir()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, living = (here.folder / f".{pid}-0123456789ab" for pid in (gone.pid, os.getpid()))
    dead.touch()
    living.touch()
    here.recover()
    assert not dead.exists()
    assert living.exists()
