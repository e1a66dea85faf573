"""Attention in parts, so that a detector's step computes only what the new token changed.

Two things make an exact step cheap. First, a few queries over many tokens need no projected keys and values:
q·(W_k m) = (W_kᵀ q)·m, and Σ a (W_v m) = W_v (Σ a m), so each query is projected instead of each token (``probes``,
``read_memory``). Second, tensors that depend only on the weights are computed once (``WeightTables``).

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
    """Return multi-head attention (B, n, d) of projected queries, without the output projection.

    Args:
        query: projected queries (B, n, d).
        key: projected keys (B, m, d); ``value`` has the same shape.
        mask: broadcast to (B, H, n, m): True where a query attends to a key, or a number to add to the logit.
        dropout: dropout rate on the attention weights.
    """
    in_graph = torch.compiler.is_exporting() and not dropout
    if in_graph:
        query = query * (query.shape[-1] // num_heads) ** -0.5
    query, key, value = (rows.unflatten(-1, (num_heads, -1)).transpose(1, 2) for rows in (query, key, value))
    if in_graph:  # the exporter's own form computes shapes at every run, which takes as long as a few queries
        logits = query @ key.mT  # (B, H, n, m)
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
        return (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)
    mixed = F.scaled_dot_product_attention(query, key, value, mask, dropout)  # (B, H, n, d / H)
    return mixed.transpose(1, 2).flatten(2)


def by_head(rows: Tensor, weight: Tensor, is_single: bool) -> Tensor:
    """Return the products (H, n, b) of rows (H, n, a) with a matrix (H, a, b) for each head.

    ONNX Runtime packs the matrices of single products once, and those of a batch at every run, which takes as long as
    the products of several rows do.

    Args:
        is_single: each stream has one row, for which nothing is packed.
    """
    if is_single:
        return torch.bmm(rows, weight)
    return torch.cat([part @ matrix for part, matrix in zip(rows.split(1), weight.unbind(), strict=True)])


def probes(query: Tensor, key_weight: Tensor, num_heads: int) -> Tensor:
    """Return the probes (B, H, n, d), whose products with the memory are the scaled logits of ``query`` (B, n, d).

    The bias of the keys is left out: it adds the same number to all logits of a query, and the softmax cancels it.
    """
    batch_size, num_queries, width = query.shape
    size = width // num_heads
    query = (query * size**-0.5).unflatten(-1, (num_heads, size)).permute(2, 0, 1, 3).flatten(1, 2)  # (H, B*n, size)
    probe = by_head(query, key_weight.unflatten(0, (num_heads, size)), num_queries == 1)  # (H, B*n, d)
    return probe.unflatten(1, (batch_size, -1)).transpose(0, 1)


def read_memory(
    probe: Tensor, memory: Tensor, value_weight: Tensor, value_bias: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Return ``attend`` of the queries behind ``probe`` (B, H, n, d) over the unprojected ``memory`` (B, m, d).

    Args:
        mask: broadcast to (B, H, n, m), True where a query attends to a token.
    """
    batch_size, num_heads, num_queries, width = probe.shape
    logits = torch.bmm(probe.flatten(1, 2), memory.mT).unflatten(1, (num_heads, -1))  # (B, H, n, m)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    summed = torch.bmm(logits.softmax(-1).flatten(1, 2), memory)  # (B, H*n, d)
    summed = summed.unflatten(1, (num_heads, -1)).transpose(0, 1).flatten(1, 2)  # (H, B*n, d)
    by_width = value_weight.unflatten(0, (num_heads, width // num_heads)).mT  # (H, d, d / H)
    mixed = by_head(summed, by_width, num_queries == 1)  # (H, B*n, d / H)
    return mixed.unflatten(1, (batch_size, -1)).permute(1, 2, 0, 3).flatten(2) + value_bias


class WeightTables(Generic[Tables]):
    """A cache of tensors that depend only on a network's weights, valid until the weights change.

    Tables are cached only where neither their gradient nor dropout is needed (evaluation mode, gradients off). They are
    computed again after any parameter or buffer was replaced, moved, cast or written to. A write that PyTorch does not
    count (through ``.data``, or by an optimizer with ``fused=True``) is not detected: networks call ``forget`` in
    ``train`` and ``eval``, and wherever gradients are on.
    """

    def __init__(self) -> None:
        self._kept: tuple[list[Tensor], list[int], Tables] | None = None
        self._is_fixed = False

    def of(self, network: nn.Module, compute: Callable[[], Tables]) -> Tables:
        """Return the cached tables while the weights are unchanged, otherwise those that ``compute`` returns."""
        if self._is_fixed and self._kept is not None:
            return self._kept[2]
        weights = [*network.parameters(), *network.buffers()]
        with_gradient = torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)
        # PyTorch counts no writes to tensors made in inference mode. A graph that is being captured must contain the
        # computation instead of its present result.
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
        # Keep the weights themselves, not only their addresses: freed memory could be reused at the same address.
        cached, versions = [weight.detach() for weight in weights], [weight._version for weight in weights]
        # Cached tables must be ordinary tensors of full precision, in whatever mode the first caller is.
        device = weights[0].device.type
        has_autocast = torch.amp.is_autocast_available(device)
        full = torch.autocast(device, enabled=False) if has_autocast else contextlib.nullcontext()
        with torch.inference_mode(False), torch.no_grad(), full:
            tables = compute()
        self._kept = cached, versions, tables
        return tables

    @contextlib.contextmanager
    def fixed(self) -> Iterator[None]:
        """Use the cached tables unchecked within the block, to capture a graph whose weights do not change.

        Without it, an exported graph would compute the tables at every run.
        """
        self._is_fixed = True
        try:
            yield
        finally:
            self._is_fixed = False

    def forget(self) -> None:
        """Empty the cache, so that the next call computes the tables again."""
        self._kept = None

    def __getstate__(self) -> dict[str, object]:
        """Leave the tables out of copies: a copied or stored network computes its own."""
        return {"_kept": None, "_is_fixed": False}
