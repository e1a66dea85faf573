"""How PyTorch's threads wait: the time of a training step on a CPU, waiting in a loop and asleep.

    python benchmarks/threads.py                          # the machine as it is
    python benchmarks/threads.py --beside 2               # beside two processes that compute all the time
    python benchmarks/threads.py --rounds 9 --out runs/threads

Every round measures each policy in a process of its own, in turn; the figures are medians of the rounds. ``ACTIVE``
waits in a loop, ``default`` is OpenMP without ``OMP_WAIT_POLICY``, ``PASSIVE`` sleeps, which all commands of vidact
choose unless the variable is set, and ``one thread`` has nobody to wait for. The networks are TRN of `vidact demo`,
whose operations are small, and TSM on MobileNetV2.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonargparse

from vidact.results.figures import command_line, save_results

POLICIES: dict[str, dict[str, str]] = {
    "ACTIVE": {"OMP_WAIT_POLICY": "ACTIVE"},
    "default": {},
    "PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
# Each network with its arguments and the shape of its clips.
NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "trn_resnet_tiny": ({"size": 64, "num_segments": 8}, (16, 8, 3, 64, 64)),
    "tsm_mobilenet_v2": ({}, (1, 8, 3, 224, 224)),
}
TOY: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {"tsn_resnet_tiny": ({"size": 32}, (2, 2, 3, 32, 32))}

STEPS = """
import json, statistics, sys, time
import torch
import vidact.models

name, arguments, shape, steps = json.loads(sys.argv[1])
torch.manual_seed(0)
network = getattr(vidact.models, name)(16, weights=None, **arguments).train()
optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
clips, labels = torch.randn(shape), torch.randint(0, 16, shape[:1])

def step():
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(network(clips), labels).backward()
    optimizer.step()

step()  # allocates memory
times = []
for _ in range(steps):
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    step()
    times.append((time.perf_counter() - wall_s, time.process_time() - cpu_s))
print(json.dumps([statistics.median(column) for column in zip(*times)]))
"""


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Run processes that compute all the time inside the block."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main(rounds: int = 5, steps: int = 5, beside: int = 0, toy: bool = False, out: Path | None = None) -> None:
    """Print a table.

    Args:
        rounds: processes of each network and policy.
        steps: steps of training in each process.
        beside: the number of processes that compute all the time beside it.
        toy: use a tiny network, to check that this runs.
        out: folder for results.json.
    """
    if min(rounds, steps) < 1 or beside < 0:
        raise ValueError(f"rounds is {rounds}, steps {steps} and beside {beside}; give 1 or more, and 0 or more beside")
    usual = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    load = f", load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    print(f"{os.cpu_count()} cores{load}, beside {beside} busy processes, medians of {rounds} rounds")
    print(f"{'a step of training':20}{'':12}{'wall, ms':>10}{'CPU, ms':>10}{'wall / PASSIVE':>16}")
    figures: dict[str, Any] = {}
    with busy_processes(beside):
        for name, (arguments, shape) in (TOY if toy else NETWORKS).items():
            times: dict[str, list[list[float]]] = {policy: [] for policy in POLICIES}
            for _ in range(rounds):
                for policy, variables in POLICIES.items():
                    words = [sys.executable, "-c", STEPS, json.dumps([name, arguments, shape, steps])]
                    process = subprocess.run(words, env=usual | variables, check=True, stdout=subprocess.PIPE)
                    times[policy].append(json.loads(process.stdout))
            rows = {
                policy: [1000 * statistics.median(column) for column in zip(*values, strict=True)]
                for policy, values in times.items()
            }
            for policy, (wall_ms, cpu_ms) in rows.items():
                ratio = wall_ms / rows["PASSIVE"][0]
                figures[f"{name}, {policy}"] = {"wall_ms": wall_ms, "cpu_ms": cpu_ms, "ratio": ratio}
                print(f"{name:20}{policy:12}{wall_ms:10.1f}{cpu_ms:10.1f}{ratio:16.2f}", flush=True)
    if out is not None:
        print(save_results(out, figures, command_line()))


if __name__ == "__main__":
    jsonargparse.auto_cli(main, as_positional=False)
