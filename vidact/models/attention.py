"""Attention in parts, so that a detector's step computes only what the new token changed.

Two things make an exact step cheap. Few queries over many keys need no key and no value: q·(W_k m) = (W_kᵀ q)·m, and
Σ a (W_v m) = W_v (Σ a m), so the projections move from every token to every query (``probes``, ``read_memory``). And
what follows from the weights alone is computed once (``WeightTables``).

Shapes: B videos, n queries, m tokens of memory, H heads, d width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Tables = TypeVar("Tables")


def attend(
    query: Tensor, key: Tensor, value: Tensor, num_heads: int, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Multi-head attention between the projections and the output projection.

    Args:
        query: (B, n, d).
        key: (B, m, d), as is ``value``.
        mask: broadcast to (B, H, n, m): True where a key is seen, or what to add to the logits.
        dropout: on the attention weights.
    """
    query, key, value = (rows.unflatten(-1, (num_heads, -1)).transpose(1, 2) for rows in (query, key, value))
    mixed = F.scaled_dot_product_attention(query, key, value, mask, dropout)  # (B, H, n, d / H)
    return mixed.transpose(1, 2).flatten(2)


def probes(query: Tensor, key_weight: Tensor, num_heads: int) -> Tensor:
    """What to multiply the memory with for the scaled logits of ``query`` (B, n, d): (B, H, n, d).

    The bias of the keys is left out: it adds the same to all logits of a query, and the softmax takes it away.
    """
    batch_size, _, width = query.shape
    size = width // num_heads
    query = (query * size**-0.5).unflatten(-1, (num_heads, size)).permute(2, 0, 1, 3).flatten(1, 2)  # (H, B*n, size)
    probe = torch.bmm(query, key_weight.unflatten(0, (num_heads, size)))  # (H, B*n, d)
    return probe.unflatten(1, (batch_size, -1)).transpose(0, 1)


def read_memory(
    probe: Tensor, memory: Tensor, value_weight: Tensor, value_bias: Tensor, mask: Tensor | None = None
) -> Tensor:
    """``attend`` of the queries behind ``probe`` (B, H, n, d) over ``memory`` (B, m, d), which is never projected.

    Args:
        mask: broadcast to (B, H, n, m), True where a token is seen.
    """
    batch_size, num_heads, _, width = probe.shape
    logits = torch.bmm(probe.flatten(1, 2), memory.mT).unflatten(1, (num_heads, -1))  # (B, H, n, m)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    summed = torch.bmm(logits.softmax(-1).flatten(1, 2), memory)  # (B, H*n, d)
    summed = summed.unflatten(1, (num_heads, -1)).transpose(0, 1).flatten(1, 2)  # (H, B*n, d)
    mixed = torch.bmm(summed, value_weight.unflatten(0, (num_heads, width // num_heads)).mT)  # (H, B*n, d / H)
    return mixed.unflatten(1, (batch_size, -1)).permute(1, 2, 0, 3).flatten(2) + value_bias


class WeightTables(Generic[Tables]):
    """What follows from a network's weights alone, kept for as long as they stay what they are.

    Kept only where nothing can need its gradient or its dropout (evaluation mode, gradients off), and computed anew
    when any parameter or buffer was replaced, moved, cast or written to since. A write that PyTorch does not count
    (through ``.data``, or by an optimizer with ``fused=True``) is not seen: networks call ``forget`` in ``train`` and
    ``eval``, and wherever gradients are on.
    """

    def __init__(self) -> None:
        self._kept: tuple[list[Tensor], list[int], Tables] | None = None
        self._is_fixed = False

    def of(self, network: nn.Module, compute: Callable[[], Tables]) -> Tables:
        """``compute()``, or what it gave before where that still holds."""
        if self._is_fixed and self._kept is not None:
            return self._kept[2]
        weights = [*network.parameters(), *network.buffers()]
        with_gradient = torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)
        # Tensors made in inference mode do not count the writes to them; a graph that is being captured must hold
        # the computation rather than today's numbers.
        uncounted = torch.compiler.is_compiling() or any(weight.is_inference() for weight in weights)
        if network.training or with_gradient or uncounted:
            self.forget()
            return compute()
        if self._kept is not None:
            cached, versions, tables = self._kept
            if len(cached) == len(weights) and all(
                old.data_ptr() == new.data_ptr() and old.dtype == new.dtype and version == new._version
                for old, new, version in zip(cached, weights, versions, strict=True)
            ):
                return tables
        # The weights themselves are held, not only their addresses: memory in use is not given out again.
        cached, versions = [weight.detach() for weight in weights], [weight._version for weight in weights]
        # Kept tables must be ordinary tensors of full precision, whichever caller computes them first.
        device = weights[0].device.type
        has_autocast = torch.amp.is_autocast_available(device)
        full = torch.autocast(device, enabled=False) if has_autocast else contextlib.nullcontext()
        with torch.inference_mode(False), torch.no_grad(), full:
            tables = compute()
        self._kept = cached, versions, tables
        return tables

    @contextlib.contextmanager
    def fixed(self) -> Iterator[None]:
        """Within the block, what was computed before is taken as it is: for a graph captured of weights that stay.

        Without it, an exported graph would compute the tables at every run.
        """
        self._is_fixed = True
        try:
            yield
        finally:
            self._is_fixed = False

    def forget(self) -> None:
        """Compute anew at the next call."""
        self._kept = None

    def __getstate__(self) -> dict[str, object]:
        """A copied or stored network computes its own."""
        return {"_kept": None, "_is_fixed": False}
