"""Compare training steps on a CPU that keep freed memory with steps that return it to the system.

    uv run python benchmarks/allocation.py

Prints the median seconds of a step with and without ``vidact.training.lightning.keep_freed_memory``, the seconds spent
inside the operating system, and the ratio. The two sides run in turn, each in a separate process.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

STEP = """
import json, resource, sys, time, torch
from vidact.training.lightning import keep_freed_memory
from vidact.models import tsm_mobilenet_v2
torch.set_flush_denormal(True)
if sys.argv[1] == "kept":
    keep_freed_memory()
network = tsm_mobilenet_v2(num_classes=10, weights=None, size=112)
optimizer = torch.optim.AdamW(network.parameters())
clips, labels = torch.randn(4, 8, 3, 112, 112), torch.arange(4)
seconds, system = [], []
for step in range(6):
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_stime
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(network(clips), labels).backward()
    optimizer.step()
    if step:
        seconds.append(time.perf_counter() - began)
        system.append(resource.getrusage(resource.RUSAGE_SELF).ru_stime - before)
print(json.dumps({"seconds": seconds, "system": system}))
"""


def main(rounds: int = 3) -> None:
    """Run ``rounds`` processes of each side in turn, and print the medians."""
    seconds: dict[str, list[float]] = {"given back": [], "kept": []}
    system: dict[str, list[float]] = {"given back": [], "kept": []}
    for _ in range(rounds):
        for side in seconds:
            process = subprocess.run([sys.executable, "-c", STEP, side], check=True, capture_output=True, text=True)
            measured = json.loads(process.stdout.splitlines()[-1])
            seconds[side] += measured["seconds"]
            system[side] += measured["system"]
    for side in seconds:
        print(
            f"{side:>10}: {statistics.median(seconds[side]):.3f} s per step, "
            f"{statistics.median(system[side]):.3f} s of it CPU time inside the operating system"
        )
    print(f"     ratio: {statistics.median(seconds['given back']) / statistics.median(seconds['kept']):.2f}")


if __name__ == "__main__":
    main()
