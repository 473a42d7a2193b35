"""The batches of a sweep on Ray: a worker per GPU, or per few cores, each with the model loaded once.

    here: pack, give out, commit      worker: (number, batch) -> (number, replies), one batch at a time

What dies, a worker or its whole node, is started again by Ray wherever there is room, and its batch is computed anew.
Nothing but replies comes back, and only the sweep's own process writes them down.

The trap: a worker loads the checkpoint by its name, on a machine of its own. What lies there under that name may be
another model: the weights of all of them are compared before the first batch.
"""

import os
import platform
import socket
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from workbench.decoding.replies import Reply
from workbench.decoding.rows import Row
from workbench.decoding.sharing import shares_prompts
from workbench.loading import Backend, Model, load_model
from workbench.models import weights_hash
from workbench.sweep.executors import Terms, write_or_split
from workbench.sweep.packing import find_budget

TRIES = 20
"""Workers that may die of one batch: then it is the batch's doing, and no number of workers will help."""
LOADING_TRIES = 3
CLAIM = 0.01
"""Of a core."""
LOOK_AROUND = 60.0
"""Seconds without a reply after which one looks whether any can come."""
OBJECT_STORE = 256 * 2**20
"""Bytes for batches on their way: they are small, and a container's shared memory often is."""


class ClusterError(ConnectionError):
    """What keeps a cluster from computing a sweep, and what to do about it."""


class _Worker:
    """One process of the cluster, which loads the model when it is first asked for something, and keeps it."""

    def __init__(self, checkpoint: str, backend: Backend, dtype: torch.dtype | None, cores: int) -> None:
        self.given, self.cores = (checkpoint, backend, dtype), cores

    @cached_property
    def model(self) -> Model:
        checkpoint, backend, dtype = self.given
        torch.set_num_threads(self.cores)
        try:
            return load_model(checkpoint, backend=backend, dtype=dtype)
        except Exception as error:
            raise ClusterError(
                f"the worker on node {platform.node()!r} could not load {checkpoint!r} ({type(error).__name__}: "
                f"{error}): put the checkpoint there under the same path, or into a folder that all nodes share"
            ) from None

    @cached_property
    def shares(self) -> bool:
        return shares_prompts(self.model)

    def weights(self) -> tuple[str, str]:
        """Its node, and what it has loaded."""
        return platform.node(), weights_hash(self.model)

    def budget(self, width: int, n_rows: int) -> int:
        return find_budget(self.model, width, n_rows)

    def write(
        self, number: int, batch: Sequence[Row], terms: Terms, *, share: bool
    ) -> tuple[int, list[Reply]]:
        return number, write_or_split(self.model, batch, terms, share=share and self.shares)


class RayCluster:
    """An executor of sweeps on Ray, for `with wb.RayCluster("organism:finance") as executor: ...`.

    `checkpoint` is what workers load, as `load_model` does: the same name, backend and dtype as the sweep's model.
    `address` is None for a Ray of its own on this machine, "auto" for the cluster that this machine belongs to,
    "host:port" or "ray://host:port" for another. There is a worker per GPU where a node has any, else one per `cores`
    cores; `workers` sets their number. `share_prefixes=False` is as for `InProcess`.

    A cluster's machines trust each other: whoever reaches its ports can run code there. Join none that is open to
    others. Every node has this workbench installed, and loads the checkpoint from its own disk.

    Raises `ClusterError` for a cluster that is not there or has no room, for workers that cannot load the model within
    `patience` seconds, or load different weights; `ImportError` where Ray is missing.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        backend: Backend = "plain",
        dtype: torch.dtype | None = None,
        address: str | None = None,
        cores: int = 1,
        workers: int | None = None,
        share_prefixes: bool = True,
        patience: float = 600.0,
    ) -> None:
        if cores < 1 or (workers is not None and workers < 1):
            raise ValueError(f"got cores={cores}, workers={workers}: expected 1 or more of each")
        # A folder is named alike wherever a worker stands.
        self.checkpoint = str(Path(checkpoint).resolve()) if Path(checkpoint).is_dir() else str(checkpoint)
        self.backend, self.dtype, self.address = backend, dtype, address
        self.cores, self.workers, self.share_prefixes = cores, workers, share_prefixes
        self.patience = patience
        self._workers: list[Any] = []
        self._started_ray = False

    def __enter__(self) -> "RayCluster":
        """Join or start Ray, start the workers, and have them load the model."""
        ray = _ray()
        if not ray.is_initialized():
            self._join(ray)
        try:
            self._start_workers(ray)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the workers go, and leave the cluster where this executor joined it."""
        ray = _ray()
        for worker in self._workers:
            ray.kill(worker)
        self._workers = []
        if self._started_ray:
            ray.shutdown()
            self._started_ray = False

    def weights_hash(self) -> str:
        """The hash of the workers' model, which is one and the same."""
        return self._weights

    def find_budget(self, width: int, n_rows: int) -> int:
        """The tokens that keep one worker busy, with its share of the rows."""
        asked = self._workers_there()[0].budget.remote(width, -(-n_rows // len(self._workers)))
        budget: int = _answers(_ray(), [asked], self.patience)[0]
        return budget

    def write(self, batches: Sequence[Sequence[Row]], terms: Terms) -> Iterator[tuple[int, list[Reply]]]:
        """The batches as they are done, one in flight per worker."""
        ray = _ray()
        from ray.util import ActorPool

        pool = ActorPool(self._workers_there())
        for number, batch in enumerate(batches):
            pool.submit(self._ask_for, (number, list(batch), terms))
        while pool.has_next():
            try:
                done = pool.get_next_unordered(timeout=LOOK_AROUND)
            except TimeoutError:
                self._require_room(ray)
                continue
            except ray.exceptions.RayError as error:
                raise _plain(ray, error) from None
            yield done

    def _ask_for(self, worker: Any, given: tuple[int, list[Row], Terms]) -> Any:
        return worker.write.options(max_task_retries=TRIES).remote(*given, share=self.share_prefixes)

    def _join(self, ray: Any) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Ray's workers stand behind everything else on a machine, unless told: theirs is the work that is waited for.
        os.environ.setdefault("RAY_worker_niceness", "0")
        own = dict(include_dashboard=False, object_store_memory=OBJECT_STORE, _node_ip_address="127.0.0.1")
        try:
            _require_listener(self.address)
            ray.init(
                # Without an address Ray would join whatever cluster it finds.
                address=self.address or "local",
                log_to_driver=False,
                logging_level="ERROR",
                **({} if self.address else own),
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise ClusterError(
                f"could not {'join Ray at ' + repr(self.address) if self.address else 'start Ray here'} ({error}): "
                "start a cluster (ray start --head) and name its address, or leave the address out for this machine "
                "alone"
            ) from error
        self._started_ray = True

    def _start_workers(self, ray: Any) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in ray.nodes() if node["Alive"]]
        self._on_gpus = any(node["Resources"].get("GPU", 0) >= 1 for node in nodes)
        room = {node["NodeID"]: self._room(node) for node in nodes}
        places = [place for place, n in room.items() for _ in range(n)]
        if not places:
            raise ClusterError(
                f"no node of the cluster has {self.cores} cores ({len(nodes)} nodes, "
                f"{ray.cluster_resources().get('CPU', 0):g} cores in all): name fewer, cores=1"
            )
        # A worker has its node, which it leaves only where that is gone, and claims next to nothing there: those of a
        # dead node move in with others, where a claim of cores would have them wait for ever for some that are taken.
        # Without any claim Ray places it at random.
        self._workers = [
            ray.remote(_Worker)
            .options(
                max_restarts=-1,
                max_task_retries=-1,
                num_cpus=CLAIM,
                num_gpus=int(self._on_gpus),
                scheduling_strategy=NodeAffinitySchedulingStrategy(places[i % len(places)], soft=True),
            )
            .remote(self.checkpoint, self.backend, self.dtype, self.cores)
            for i in range(self.workers or len(places))
        ]
        asked = [worker.weights.options(max_task_retries=LOADING_TRIES).remote() for worker in self._workers]
        found = dict(reversed(pair) for pair in _answers(ray, asked, self.patience))
        if len(found) > 1:
            told = ", ".join(f"{weights} on {node!r}" for weights, node in found.items())
            raise ClusterError(
                f"the workers loaded different weights from {self.checkpoint!r} (hash {told}): put the same "
                "checkpoint on every node, or into a folder that all of them share"
            )
        self._weights = next(iter(found))

    def _room(self, node: Any) -> int:
        resources = node["Resources"]
        return int(resources.get("GPU", 0) if self._on_gpus else resources.get("CPU", 0) // self.cores)

    def _require_room(self, ray: Any) -> None:
        """Refuse to wait for workers that have no place left to be started again."""
        room = sum(self._room(node) for node in ray.nodes() if node["Alive"])
        if room < (len(self._workers) if self._on_gpus else 1):
            raise ClusterError(
                f"the cluster lost nodes and has room for {room} of {len(self._workers)} workers: run the same call "
                "again, which starts as many as there is room for, and goes on where this one stopped if it has a "
                "ledger"
            )

    def _workers_there(self) -> list[Any]:
        if not self._workers:
            raise ClusterError("the cluster is not there: with wb.RayCluster(...) as executor: ...")
        return self._workers


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "a sweep on a cluster needs Ray: pip install 'inferaligner-workbench[cluster]'"
        ) from error
    return ray


def _require_listener(address: str | None) -> None:
    """Find out at once whether somebody listens there: Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _answers(ray: Any, asked: list[Any], patience: float) -> list[Any]:
    try:
        return list(ray.get(asked, timeout=patience))
    except ray.exceptions.GetTimeoutError:
        there = ray.available_resources()
        free = ", ".join(f"{there.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))
        raise ClusterError(
            f"the workers did not answer within {patience:g} seconds ({free} are free): wait until the cluster has "
            "room, or name fewer workers; where a model takes longer to load, give it more patience="
        ) from None
    except ray.exceptions.RayError as error:
        raise _plain(ray, error) from None


def _plain(ray: Any, error: Any) -> BaseException:
    """The error as the worker raised it, or what became of the worker."""
    if isinstance(error, ray.exceptions.RayTaskError):
        cause: BaseException = error.cause
        return cause
    told = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
    if "creation task" in str(error):
        return ClusterError(
            f"no worker could be started ({told}): install the same inferaligner-workbench, in the same version of "
            "Python, on every node of the cluster"
        )
    return ClusterError(
        f"the cluster lost what it was computing ({type(error).__name__}: {told}): a worker died of it again and "
        "again, most likely for want of memory, or the cluster is gone: name fewer workers or smaller batches, and "
        "run the same call again"
    )
