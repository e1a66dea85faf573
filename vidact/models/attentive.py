"""Attentive pooling: a learned query attends to the tokens of a clip and becomes one vector.

The pooler of V-JEPA 2's classifiers (Assran et al. 2025, https://arxiv.org/abs/2506.09985): optional transformer layers
over the tokens, then one layer in which the query attends to all tokens. The names of the tensors are those of
Hugging Face's transformers, so published poolers load unchanged; tests compare the outputs.

Shapes: B clips, N tokens, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidact.models.attention import attend

NORM_EPS = 1e-6
INNER = 4  # the hidden width of the feed-forward part, in widths


class Projections(nn.Module):
    """The projections of queries, keys and values, each of the whole width, and of the result where there is one."""

    out_proj: nn.Linear

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, INNER * dim), nn.Linear(INNER * dim, dim)

    def forward(self, vectors: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        return self.fc2(F.gelu(self.fc1(vectors)))


class SelfAttentionLayer(nn.Module):
    """A transformer layer: every token attends to all tokens."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(dim, NORM_EPS), nn.LayerNorm(dim, NORM_EPS)
        self.self_attn = Projections(dim)
        self.self_attn.out_proj = nn.Linear(dim, dim)
        self.mlp = FeedForward(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        attention, normed = self.self_attn, self.layer_norm1(tokens)
        parts = attention.q_proj(normed), attention.k_proj(normed), attention.v_proj(normed)
        tokens = tokens + attention.out_proj(attend(*parts, self.num_heads))
        return tokens + self.mlp(self.layer_norm2(tokens))


class CrossAttentionLayer(nn.Module):
    """A transformer layer in which one query attends to all tokens; its attention has no output projection."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(dim, NORM_EPS), nn.LayerNorm(dim, NORM_EPS)
        self.cross_attn = Projections(dim)
        self.mlp = FeedForward(dim)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """Return the query (1, 1, D) after it has read the tokens (B, N, D): (B, 1, D)."""
        attention, memory = self.cross_attn, self.layer_norm1(tokens)
        projected = attention.q_proj(query).expand(tokens.shape[0], -1, -1)
        query = query + attend(projected, attention.k_proj(memory), attention.v_proj(memory), self.num_heads)
        return query + self.mlp(self.layer_norm2(query))


class AttentivePooler(nn.Module):
    """A learned query that attends to tokens, after transformer layers over them.

    Args:
        dim: width D of the tokens.
        num_heads: attention heads, a divisor of D.
        layers: transformer layers before the query reads the tokens: 3 in V-JEPA 2.
    """

    def __init__(self, dim: int, num_heads: int, layers: int = 0) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim is {dim} and num_heads {num_heads}; the heads share the width equally")
        self.query_tokens = nn.Parameter(torch.empty(1, 1, dim))
        nn.init.trunc_normal_(self.query_tokens, std=0.02)
        self.self_attention_layers = nn.ModuleList(SelfAttentionLayer(dim, num_heads) for _ in range(layers))
        self.cross_attention_layer = CrossAttentionLayer(dim, num_heads)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return one vector (B, D) for the tokens (B, N, D) of each clip."""
        for layer in self.self_attention_layers:
            tokens = layer(tokens)
        return self.cross_attention_layer(self.query_tokens, tokens)[:, 0]
