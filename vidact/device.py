"""Devices: the best one of this machine, and the check of a name."""

from __future__ import annotations

import textwrap

import torch


def best_device() -> torch.device:
    """Return the accelerator that this PyTorch can use here (CUDA, MPS, …); the CPU where there is none."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def refuse_device(name: str | None) -> None:
    """Raise ValueError for a --device that this PyTorch does not have here; None, the best there is, is always fine."""
    if name is None:
        return
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # an unknown name; one that this PyTorch was built without
        best = best_device()
        known = "cpu" if best.type == "cpu" else f"cpu and {best}"
        why = textwrap.shorten(str(error), 100, placeholder=" …")
        raise ValueError(f"--device is {name}, which PyTorch does not have here ({why}); it has {known}") from None
