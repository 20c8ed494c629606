"""Where the processes are that work on the scans: this machine, the queue of a cluster, or workers that wait already.

Everything comes down to a client of a Dask scheduler. The scheduler only hands out scans; what is finished, who is at
it and what failed stands in the output folder, so that nothing is lost with the scheduler.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from neuralprep.engine.attempt import IN_FLIGHT
from neuralprep.engine.claims import CREDENTIALS, FOLDER
from neuralprep.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

LOCAL = "local"
#: name of a queue system -> class of dask-jobqueue, command that submits a job
QUEUES = {
    "slurm": ("SLURMCluster", "sbatch"),
    "pbs": ("PBSCluster", "qsub"),
    "lsf": ("LSFCluster", "bsub"),
    "sge": ("SGECluster", "qsub"),
}
INSTALL = "pip install 'neuralprep[cluster]'"
_CONNECT_S = 30
#: longest time for a worker of this machine to start
_START_S = 120
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
#: deaths are counted by the claims, scan by scan; the scheduler would blame every scan that it had given a worker
_CONFIG = {
    "distributed.scheduler.allowed-failures": 1_000_000,
    "distributed.scheduler.worker-ttl": "2 minutes",
    "distributed.deploy.lost-worker-timeout": "10 minutes",  # a busy machine takes its time to start one again
    "distributed.comm.timeouts.connect": "2 minutes",
    "distributed.scheduler.http.routes": [],  # no pages for others to look at
    "distributed.worker.http.routes": [],
}
_ANY_PORT = "127.0.0.1:0"
_QUEUE_MEMORY = "4GiB"


@dataclass(frozen=True)
class Execution:
    """How a batch is worked off.

    Parameters
    ----------
    jobs : int
        Scans side by side: worker processes on this machine, or jobs in a queue.
    cluster : str
        "" (this process for one job, else this machine), ``local``, a name of `QUEUES`, the address of a scheduler
        (``tcp://host:port``) or its file (``.json``).
    options : mapping of str to str
        Settings of the jobs of a queue, by the names of dask-jobqueue.
    time_limit_s : float, optional
        Longest time for one scan.
    deaths : int
        A scan that so many processes died of is given up.
    """

    jobs: int = 1
    cluster: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    time_limit_s: float | None = None
    deaths: int = 3

    @property
    def in_process(self) -> bool:
        """Whether no other process is needed: a time limit needs one, because it ends it."""
        return self.jobs == 1 and not self.cluster and self.time_limit_s is None

    @property
    def own_machine(self) -> bool:
        """Whether all workers are processes of this machine that the command starts."""
        return self.cluster in ("", LOCAL)


def check(execution: Execution) -> None:
    """Refuse a cluster that cannot be used, before anything is done.

    Raises
    ------
    InputError
        With what is missing.
    """
    name = execution.cluster
    if execution.options and name not in QUEUES:
        raise InputError(f"options of jobs have no effect without a queue ({', '.join(QUEUES)})")
    if name in QUEUES:
        if importlib.util.find_spec("dask_jobqueue") is None:
            raise InputError(f"the cluster {name} needs a package that is not installed: {INSTALL}")
        command = QUEUES[name][1]
        if shutil.which(command) is None:
            raise InputError(f"the cluster {name} needs the command {command}, which is not here; use a login node")
    elif name.endswith(".json"):
        if not Path(name).expanduser().is_file():
            raise InputError(f"{name}: no such file; start a scheduler with: dask scheduler --scheduler-file {name}")
    elif name and name != LOCAL and "://" not in name:
        known = ", ".join((LOCAL, *QUEUES))
        raise InputError(f"unknown cluster {name}. Give {known}, tcp://host:port, or the scheduler's file (.json).")
    if execution.jobs > 1 and not execution.own_machine and name not in QUEUES:
        raise InputError(f"--jobs has no effect with {name}: it has the workers that were started for it")


@contextmanager
def open_client(execution: Execution, out_dir: Path, threads: int) -> Iterator[Client]:
    """Connect to the workers, starting them where that is our part.

    Parameters
    ----------
    execution : Execution
        Which ones.
    out_dir : Path
        Output folder: on a file system that all workers of a queue see.
    threads : int
        Per scan, for workers that are started.

    Raises
    ------
    InputError
        Nobody answers.
    """
    import dask
    from distributed import Client

    with dask.config.set(_CONFIG), ExitStack() as stack:
        if execution.own_machine:
            cluster = stack.enter_context(_local(execution.jobs, threads))
        elif execution.cluster in QUEUES:
            credentials = stack.enter_context(_credentials(out_dir / FOLDER))
            cluster = stack.enter_context(_queue(execution, credentials, threads))
        else:
            yield stack.enter_context(_connected(execution.cluster))
            return
        client = stack.enter_context(Client(cluster, set_as_default=False))
        if execution.own_machine:
            client.register_plugin(_tidy_plugin())
        yield client


def _local(jobs: int, threads: int) -> Any:
    """Processes on this machine.

    They talk over encrypted connections: on a machine with other users a bare port would take orders, that is code,
    from all of them.
    """
    from distributed import LocalCluster

    try:
        return LocalCluster(
            n_workers=jobs,
            threads_per_worker=IN_FLIGHT,
            processes=True,
            dashboard_address=_ANY_PORT,
            memory_limit=0,  # it would stop a worker for what another scan does not use; the system knows better
            security=True,
            silence_logs=logging.CRITICAL,
            death_timeout=_START_S,
            env={name: os.environ.get(name, str(threads)) for name in _THREAD_VARIABLES},
        )
    except (RuntimeError, TimeoutError) as error:
        raise InputError(f"the worker processes cannot be started: {error}. Try --jobs 1 to see why.") from error


@contextmanager
def _credentials(folder: Path) -> Iterator[Any]:
    """Key and certificate of one run in files that only this user can read, on this machine and on those of jobs."""
    from distributed.security import Security

    made = Security.temporary()
    folder.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=CREDENTIALS) as name:
        key, certificate = Path(name) / "key.pem", Path(name) / "certificate.pem"
        key.write_text(made.tls_worker_key, encoding="ascii")
        certificate.write_text(made.tls_worker_cert, encoding="ascii")
        roles = {f"tls_{role}_{kind}": str(path) for role in ("client", "scheduler", "worker")
                 for kind, path in (("key", key), ("cert", certificate))}  # fmt: skip
        yield Security(require_encryption=True, tls_ca_file=str(certificate), **roles)


def _queue(execution: Execution, credentials: Any, threads: int) -> Any:
    """Jobs of a queue; those that end are replaced as long as there is work."""
    import dask_jobqueue

    name, _ = QUEUES[execution.cluster]
    chosen: dict[str, Any] = {
        "cores": threads, "processes": 1, "memory": _QUEUE_MEMORY, "job_name": "neuralprep", "security": credentials,
        "scheduler_options": {"dashboard_address": _ANY_PORT},
    }  # fmt: skip
    chosen |= {key: int(value) if value.isdigit() else value for key, value in execution.options.items()}
    try:
        cluster = getattr(dask_jobqueue, name)(**chosen)
    except (TypeError, ValueError) as error:
        raise InputError(f"the cluster {execution.cluster} cannot be used: {error}") from error
    cluster.adapt(minimum_jobs=execution.jobs, maximum_jobs=execution.jobs)
    return cluster


@contextmanager
def _connected(where: str) -> Iterator[Client]:
    """A client of a scheduler that runs already."""
    from distributed import Client

    file = Path(where).expanduser()
    target: dict[str, Any] = {"scheduler_file": str(file)} if where.endswith(".json") else {"address": where}
    try:
        client = Client(**target, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: no scheduler answers ({error}). Is it running, and is this its address?") from error
    with client:
        yield client


def _tidy_plugin() -> Any:
    """Makes the workers of this machine leave Ctrl-C to the command, which then ends them."""
    from distributed import WorkerPlugin

    class Tidy(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            import signal

            signal.signal(signal.SIGINT, signal.SIG_IGN)

    return Tidy()
