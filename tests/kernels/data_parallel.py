"""One process of a data-parallel run, started by test_ihn_loss_loops:
`python -m tests.kernels.data_parallel RANK PROCESSES STORE OUT` saves the gradients of rank 0.
"""

import os
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before the first import of triton

from safetensors.torch import save_file

from remi_fast import REMILoss

BATCH, ITEMS, K, D, L, N = 6, 30, 2, 5, 4, 20
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Toy(torch.nn.Module):
    """An item table, a linear map to K interests, and the loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.items = torch.nn.Embedding(ITEMS, D)
        self.routing = torch.nn.Linear(D, K)
        self.loss = REMILoss(rr_lambda=0.1, num_negatives=N, seed=5, backend="triton")

    def forward(self, history, target_ids, step):
        """history (B, L), target_ids (B,) -> the loss of the batch."""
        vectors = self.items(history)
        routing = self.routing(vectors).softmax(dim=1).transpose(1, 2)
        return self.loss(
            routing @ vectors, target_ids, self.items.weight, routing=routing, step=step
        )


def batch():
    """The history and the targets of all processes."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, ITEMS, (BATCH, L + 1), generator=generator).to(DEVICE)
    return ids[:, :L], ids[:, L]


def main(rank, processes, store, out):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
    model = DistributedDataParallel(Toy().to(DEVICE))
    history, target_ids = (x.chunk(processes)[rank] for x in batch())
    model(history, target_ids, step=3).backward()
    if rank == 0:
        save_file({name: x.grad for name, x in model.module.named_parameters()}, out)
    dist.barrier()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may hang the interpreter's own exit
