"""One of two processes that share each batch; test_two_processes.py starts both.

    python -m support.gradients_of_two RANK MEETING_FILE OUT

For every network of ``NETWORKS``: each process sees one half of the videos, and the first writes how far the gradients
that DistributedDataParallel gave both are from those of the whole batch in one process.
"""

import copy
import json
import sys
from pathlib import Path

import torch
from support.networks import CLIP_NETWORKS
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import vidact.models

# every paper that has a tiny network, with other modalities, two streams, causal shifts
NETWORKS = [case for case in CLIP_NETWORKS if "tiny" in case[0]]


def built(name, arguments):
    """Dropout off and batch norms that keep their statistics, which two halves would otherwise each have of their own.

    What starts as an identity is made to do something.
    """
    torch.manual_seed(0)
    network = getattr(vidact.models, name)(num_classes=5, weights=None, **arguments).double().eval()
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network


def gradients(network, clip, targets):
    nn.functional.cross_entropy(network(clip), targets).backward()
    return {name.removeprefix("module."): parameter.grad for name, parameter in network.named_parameters()}


def main(rank, meeting, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    found = {}
    for name, arguments in NETWORKS:
        network = built(name, arguments)
        frames = network.input.frames or max(4, getattr(network, "min_frames", 4))
        generator = torch.Generator().manual_seed(1)
        size = network.input.size
        clip = torch.randn(4, frames, network.input.channels, size, size, generator=generator, dtype=torch.float64)
        targets = torch.tensor([0, 1, 2, 3])
        alone = gradients(copy.deepcopy(network), clip, targets)
        half = slice(2 * rank, 2 * rank + 2)
        shared = DistributedDataParallel(network)
        together = gradients(shared, clip[half], targets[half])
        assert together.keys() == alone.keys()
        largest = max(float(value.abs().max()) for value in alone.values())
        error = max(float((together[key] - alone[key]).abs().max()) for key in alone)
        # A second pass fails where a parameter got no gradient in the first.
        gradients(shared, clip[half], targets[half])
        found["-".join([name, *map(str, arguments.values())])] = {"error": error, "largest": largest}
    if rank == 0:
        Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
