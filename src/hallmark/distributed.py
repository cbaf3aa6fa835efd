"""Several processes that compute one stage together, as torchrun starts them.

torchrun says in the environment who is who: RANK, WORLD_SIZE, LOCAL_RANK.  Every process computes the same, but
shares of the long work are computed by one and handed to the others (:meth:`Group.exchange`).  Only the first
process, rank 0, writes files, shows progress and talks to MLflow.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from hallmark.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.distributed_c10d import Store

PATIENCE = timedelta(days=1)
"""How long a process waits for another's share.  One that ends is noticed at once, by its closed connection."""


def rank() -> int:
    """The number of this process among all; 0 if there is no other."""
    return int(os.environ.get("RANK", "0"))


def size() -> int:
    """The number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """The number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@dataclass(frozen=True)
class Group:
    """The processes that compute together: :func:`group` joins several, :data:`ALONE` is this one.

    Attributes:
        rank: the number of this process.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def exchange(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Give ``tensors`` to all, and get what each process gave.  Every process must call it.

        Returns:
            contiguous tensors on the CPU by the names that their process gave them, in the order of the ranks.

        Raises:
            UserError: another process ended.
        """
        import torch  # noqa: PLC0415 - a second to import, and progress bars ask for the rank only
        import torch.distributed as dist  # noqa: PLC0415
        from safetensors.torch import load, save  # noqa: PLC0415

        packed = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        if self.size == 1:
            return [packed]
        own = torch.frombuffer(bytearray(save(packed)), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        try:
            dist.all_gather(lengths, torch.tensor([len(own)]))
            parts = [torch.empty(int(length), dtype=torch.uint8) for length in lengths]
            parts[self.rank] = own
            for source, part in enumerate(parts):
                dist.broadcast(part, source)
        except RuntimeError as error:
            raise UserError(
                f"another of the {self.size} processes ended (killed, or out of memory?); start them again, what is "
                "finished is kept"
            ) from error
        return [load(part.numpy().tobytes()) for part in parts]

    def agree(self, what: str, digest: str) -> None:
        """Make sure that all processes have the same.  Every process must call it.

        Args:
            what: names it in the message.
            digest: its hash, hexadecimal.

        Raises:
            UserError: they have not, in every process; or another process ended.
        """
        import torch  # noqa: PLC0415

        own = torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)
        if any(not torch.equal(other["digest"], own) for other in self.exchange({"digest": own})):
            raise UserError(
                f"the {self.size} processes differ in {what}; start them from the same files and versions, on machines "
                "of one kind"
            )


ALONE = Group()


@contextmanager
def group() -> Iterator[Group]:
    """Join the processes that torchrun started; without torchrun, this one alone.

    Whatever ends one of them ends all, with one message: the exception of the first that fails goes on, the others
    exit with status 1 and say nothing.

    Raises:
        UserError: the others cannot be reached.
    """
    if size() == 1:
        yield ALONE
        return
    import torch.distributed as dist  # noqa: PLC0415

    store = _join()
    before = signal.getsignal(signal.SIGTERM)

    def terminate(number: int, frame: object) -> None:
        """End as without a group, or, if another process has failed and torchrun ends the rest, without a word."""
        if callable(before) and _first_to_fail(store):
            before(number, None)
        sys.exit(1)

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield Group(rank(), size())
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # on the way out: torchrun's signal must not add a message
        if _first_to_fail(store):
            raise
        raise SystemExit(1) from error
    else:
        signal.signal(signal.SIGTERM, before)
    finally:
        dist.destroy_process_group()


def _join() -> Store:
    """Start the process group; its store outlives every single process, for torchrun itself holds it."""
    import torch.distributed as dist  # noqa: PLC0415
    from torch.distributed.rendezvous import rendezvous  # noqa: PLC0415

    try:
        store, number, count = next(iter(rendezvous("env://")))
        # gloo also beside GPUs: what is exchanged is small and on the CPU.
        dist.init_process_group("gloo", store=store, rank=number, world_size=count, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        detail = str(error).strip().split("\n", 1)[0]
        raise UserError(f"cannot reach the other {size() - 1} processes ({detail}); start all with torchrun") from error
    return store


def _first_to_fail(store: Store) -> bool:
    """Whether no other process failed before this one; the answer to one process stays the same."""
    own = str(rank())
    try:
        return store.compare_set("hallmark/failed", "", own).decode() == own
    except RuntimeError:  # torchrun itself has ended, and the store with it
        return rank() == 0
