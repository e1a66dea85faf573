"""Devices: the best device of this machine, and the check of a device's name."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator

import torch


def best_device() -> torch.device:
    """Return the accelerator that PyTorch can use on this machine (CUDA, MPS, …); the CPU where there is none."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def refuse_device(name: str | None) -> None:
    """Raise ValueError for a --device that PyTorch cannot use on this machine; None, the best device, is accepted."""
    if name is None:
        return
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError is for devices that PyTorch was built without
        best = best_device()
        available = "cpu" if best.type == "cpu" else f"cpu and {best}"
        why = textwrap.shorten(str(error), 100, placeholder=" …")
        raise ValueError(f"--device is {name}, which PyTorch does not have here ({why}); it has {available}") from None


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread of the CPU inside the block: the number of threads changes the last bits, and many small
    operations on several threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
