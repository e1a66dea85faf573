"""A causal transformer that costs the same at every step: our own detector.

Pre-norm layers read a stream of tokens. Each token attends only to itself and its past, so a layer computes each token
once; the published windows with absolute positions (OadTR, LSTR) must compute theirs again at every token. Three kinds
of layer differ in how they store the past:

``softmax``      attention over a window of tokens, whose keys and values are stored. Positions are rotary (Su et al.
                 2021, https://arxiv.org/abs/2104.09864): the output depends only on how long ago a token was. As in
                 Continual OadTR (Hedegaard et al. 2022, https://arxiv.org/abs/2201.06268), which recycles positions.
``linear``       attention with a positive feature map (Katharopoulos et al. 2020, https://arxiv.org/abs/2006.16236),
                 normalised, with one decay a head as in RetNet (Sun et al. 2023, https://arxiv.org/abs/2307.08621),
                 here learned. The whole past is one matrix a head.
``state_space``  a selective state-space layer: Mamba (Gu & Dao 2023, https://arxiv.org/abs/2312.00752) with Mamba-2's
                 one decay a head (Dao & Gu 2024, https://arxiv.org/abs/2405.21060). Its scan is matrix products, which
                 are fast without a special kernel. The token decides what the layer keeps and what it forgets.

Written from the papers. Every kind of layer advances by n tokens from a state: n is 1 in ``step``, and ``forward``
takes pieces of ``CHUNK`` tokens, so hours of features need no T x T matrix.

Shapes: B videos, T tokens, n tokens of a piece, D features, H heads, N x P numbers in a head's memory, L tokens ahead,
K outputs.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidact.models.online import OnlineNetwork, OnlineOutput, State
from vidact.models.weights import builder

CHUNK = 128  # tokens that forward processes at once; the output does not depend on it

# Rotary angles are counted in whole steps of 2π / TURN, so that the angle of a position is exact integer arithmetic
# modulo one turn. In floating point it would lose a digit whenever the stream's age grows tenfold.
TURN = 2**24

FEATURE_FLOOR = 1e-3  # keeps the normaliser of linear attention away from zero

# Mamba-2's values: inner width / width, tokens of the convolution, state values a channel, and the ranges of the first
# steps and decays.
EXPAND = 2
CONVOLUTION = 4
STATE_SIZE = 64
FIRST_STEPS = (0.001, 0.1)
FIRST_DECAYS = (1.0, 16.0)


# ---------------------------------------------------------------------------------------------- softmax


class SoftmaxAttention(nn.Module):
    """A multi-head attention over the last ``window`` tokens, with rotary positions."""

    turns: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window, self.size = heads, window, width // heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        frequencies = 10000.0 ** -(torch.arange(0, self.size, 2) / self.size)  # radians a token
        self.register_buffer("turns", (frequencies * TURN / (2 * math.pi)).round().long(), persistent=False)

    def initial_state(self, batch_size: int) -> State:
        past = self.qkv.weight.new_zeros(batch_size, self.heads, self.window - 1, self.size)
        return {"keys": past, "values": past.clone()}

    def forward(self, tokens: Tensor, positions: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the output (B, n, width) and the new state after ``tokens`` at ``positions`` (B, n) of streams."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, self.size)).permute(2, 0, 3, 1, 4)
        query, key = self.rotate(torch.stack([query, key]), positions)  # (B, H, n, P)
        past = self.window - 1
        keys = torch.cat([state["keys"], key.to(state["keys"].dtype)], 2)  # (B, H, past + n, P), oldest first
        values = torch.cat([state["values"], value.to(state["values"].dtype)], 2)
        mixed = F.scaled_dot_product_attention(query.to(keys.dtype), keys, values, self.visible(positions))
        mixed = mixed.transpose(1, 2).flatten(2).to(tokens.dtype)
        n = tokens.shape[1]
        return self.out(mixed), {"keys": keys[:, :, n : n + past], "values": values[:, :, n : n + past]}

    def rotate(self, heads: Tensor, positions: Tensor) -> Tensor:
        """Rotate the pairs of channels of (…, B, H, n, P) by angles that grow with the position, one rate a pair."""
        steps = (positions[..., None] * self.turns) % TURN
        angle = steps.to(recurrence_dtype(heads.dtype)).unsqueeze(1) * (2 * math.pi / TURN)  # (B, 1, n, P / 2)
        cos, sin = angle.cos(), angle.sin()
        first, second = heads.to(angle.dtype).chunk(2, -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(heads.dtype)

    def visible(self, positions: Tensor) -> Tensor:
        """Return which of the ``past + n`` keys each of the n tokens attends to: bool (B, 1, n, past + n)."""
        past, n = self.window - 1, positions.shape[1]
        # The age of key j for token i of the piece; 0 is the token itself.
        age = past + torch.arange(n, device=positions.device)[:, None] - torch.arange(past + n, device=positions.device)
        # There are no tokens at negative positions, so the window of a stream's first tokens is incomplete. The token
        # itself stays visible even at a negative position (before ``start``), or its softmax would be 0 / 0.
        exists = positions[..., None] - age >= 0  # (B, n, past + n)
        return ((age >= 0) & (age <= past) & (exists | (age == 0))).unsqueeze(1)


# ---------------------------------------------------------------------------------------------- memory that decays


def recurrence_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type of a memory: single precision at least, since half precision loses sums over hours."""
    return torch.promote_types(dtype, torch.float32)


def segment_sums(logs: Tensor) -> Tensor:
    """Return (…, n, n) with, at [i, j], the sum of ``logs`` (…, n) after token j up to token i; −∞ where j > i.

    Each row is summed by itself: the difference of two running sums would cancel after a strong decay.
    """
    n = logs.shape[-1]
    after = torch.ones(n, n, dtype=torch.bool, device=logs.device).tril(-1)
    sums = logs.unsqueeze(-1).expand(*logs.shape, n).masked_fill(~after, 0).cumsum(-2)
    return sums.masked_fill(after.mT, -math.inf)


def decayed_attention(
    queries: Tensor, keys: Tensor, values: Tensor, log_decay: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """Return y_i = q_i M_i, where M_i = exp(log_decay_i) M_(i−1) + k_iᵀ v_i, for n tokens by matrix products.

    Args:
        queries: (B, H or 1, n, N); ``keys`` have the same shape.
        values: (B, H, n, P).
        log_decay: (B or 1, H, n), at most 0.
        memory: (B, H, N, P), M before the first token.

    Returns:
        y (B, H, n, P) and M after the last token.
    """
    decay = segment_sums(log_decay).exp()  # (…, n, n): at [i, j], the share of token j's write that is left at token i
    since = log_decay.cumsum(-1).exp().unsqueeze(-1)  # (…, n, 1): the share of the memory that is left
    outputs = ((queries @ keys.mT) * decay) @ values + (queries @ memory) * since
    decay_to_end = decay[..., -1, :].unsqueeze(-1)
    return outputs, memory * since[..., -1:, :] + keys.mT @ (values * decay_to_end)


class LinearAttention(nn.Module):
    """A linear attention over the whole past that returns Σ_j γ^(i−j) φ(q_i)·φ(k_j) v_j / Σ_j γ^(i−j) φ(q_i)·φ(k_j).

    φ(x) is elu(x) + 1 + floor. Each output is a weighted mean of values. Because γ < 1, the sums stay bounded however
    long the stream is.
    """

    first_log_rate: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        # γ = exp(−rate): heads start with memories of 8 to 512 tokens, two seconds to two minutes. The rate is learned
        # as a difference from these, so that weight decay pulls towards them and not towards a rate of one.
        self.register_buffer("first_log_rate", -torch.linspace(math.log(8), math.log(512), heads), persistent=False)
        self.log_rate = nn.Parameter(torch.zeros(heads))

    def initial_state(self, batch_size: int) -> State:
        shape = (batch_size, self.heads, self.size, self.size + 1)  # the last column sums the weights
        rate = self.log_rate
        return {"memory": torch.zeros(shape, dtype=recurrence_dtype(rate.dtype), device=rate.device)}

    def forward(self, tokens: Tensor, positions: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the output (B, n, width) and the new state after ``tokens`` at ``positions`` (B, n) of streams."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.heads, self.size)).permute(2, 0, 3, 1, 4)
        dtype = state["memory"].dtype
        with torch.autocast(tokens.device.type, enabled=False):
            query, key, value = qkv.to(dtype)
            query, key = F.elu(query) + 1 + FEATURE_FLOOR, F.elu(key) + 1 + FEATURE_FLOOR
            exists = (positions >= 0).to(dtype)[:, None, :, None]
            log_decay = -(self.first_log_rate + self.log_rate).to(dtype).exp()
            log_decay = log_decay[None, :, None].expand(-1, -1, tokens.shape[1])
            values = torch.cat([value, torch.ones_like(value[..., :1])], -1)
            outputs, memory = decayed_attention(query, key * exists, values, log_decay, state["memory"])
            # Before a video's start both sums are 0; the output there is 0 / 1.
            mixed = outputs[..., :-1] / (outputs[..., -1:] + (1 - exists))
        mixed = mixed.transpose(1, 2).flatten(2).to(tokens.dtype)
        return self.out(mixed), {"memory": memory}


class StateSpace(nn.Module):
    """Mamba-2's layer: a short causal convolution, then h ← exp(−a Δ) h + Δ B xᵀ and y = C h.

    Δ, B and C are computed from the token. Heads are as wide as in the other kinds, and ``EXPAND`` times as many.
    """

    first_step: Tensor
    first_log_decay: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.inner, self.heads = EXPAND * width, EXPAND * heads
        self.convolved = self.inner + 2 * STATE_SIZE  # x, B and C
        self.inside = nn.Linear(width, self.inner + self.convolved + self.heads, bias=False)  # gate; x, B, C; Δ
        self.kernel = nn.Parameter(torch.empty(CONVOLUTION, self.convolved).uniform_(-1, 1) / math.sqrt(CONVOLUTION))
        self.kernel_bias = nn.Parameter(torch.zeros(self.convolved))
        # Mamba draws the initial steps and decays at random. Spread evenly, even few heads cover memories of 1 to 1,000
        # tokens. Both are learned as differences, so that weight decay pulls towards the initial values.
        steps = torch.logspace(math.log10(FIRST_STEPS[0]), math.log10(FIRST_STEPS[1]), self.heads)
        self.register_buffer("first_step", steps.expm1().log(), persistent=False)  # softplus of these gives the steps
        self.register_buffer("first_log_decay", torch.linspace(*FIRST_DECAYS, self.heads).log(), persistent=False)
        self.step_bias = nn.Parameter(torch.zeros(self.heads))
        self.log_decay = nn.Parameter(torch.zeros(self.heads))
        self.skip = nn.Parameter(torch.ones(self.heads))
        self.norm = nn.RMSNorm(self.inner, eps=1e-5)
        self.out = nn.Linear(self.inner, width)

    def initial_state(self, batch_size: int) -> State:
        dtype, device = recurrence_dtype(self.skip.dtype), self.skip.device
        shapes = {
            "inputs": (batch_size, CONVOLUTION - 1, self.convolved),
            "memory": (batch_size, self.heads, STATE_SIZE, self.inner // self.heads),
        }
        return {name: torch.zeros(shape, dtype=dtype, device=device) for name, shape in shapes.items()}

    def forward(self, tokens: Tensor, positions: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the output (B, n, width) and the new state after ``tokens`` at ``positions`` (B, n) of streams."""
        gate, mixture, step = self.inside(tokens).split([self.inner, self.convolved, self.heads], -1)
        dtype = state["memory"].dtype
        with torch.autocast(tokens.device.type, enabled=False):
            exists = (positions >= 0).to(dtype)[..., None]  # (B, n, 1)
            # Tokens before a video's start are not written into the memory, neither here nor (Δ = 0) below.
            inputs = torch.cat([state["inputs"], mixture.to(dtype) * exists], 1)
            n, kernel = tokens.shape[1], self.kernel.to(dtype)
            mixture = sum((inputs[:, i : i + n] * kernel[i] for i in range(CONVOLUTION)), self.kernel_bias.to(dtype))
            x, write, read = F.silu(mixture).split([self.inner, STATE_SIZE, STATE_SIZE], -1)  # x, B, C of the paper
            x = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, n, P)
            step = (F.softplus(step.to(dtype) + (self.first_step + self.step_bias).to(dtype)) * exists).mT  # (B, H, n)
            log_decay = -(self.first_log_decay + self.log_decay).to(dtype).exp()[:, None] * step
            outputs, memory = decayed_attention(
                read.unsqueeze(1), write.unsqueeze(1), x * step.unsqueeze(-1), log_decay, state["memory"]
            )
            outputs = outputs + x * self.skip.to(dtype)[:, None, None]
        mixed = outputs.transpose(1, 2).flatten(2).to(tokens.dtype)
        mixed = self.norm(mixed * F.silu(gate.to(tokens.dtype)))
        return self.out(mixed), {"inputs": inputs[:, -(CONVOLUTION - 1) :], "memory": memory}


# ---------------------------------------------------------------------------------------------- network


class CausalLayer(nn.Module):
    """A pre-norm layer: x ← x + attention(LN x), then x ← x + feed-forward(LN x)."""

    def __init__(self, attention: SoftmaxAttention | LinearAttention | StateSpace, width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = attention
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, 2 * width)
        self.linear2 = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, positions: Tensor, state: State) -> tuple[Tensor, State]:
        mixed, state = self.attention(self.norm1(tokens), positions, state)
        tokens = tokens + self.dropout(mixed)
        hidden = self.dropout(F.gelu(self.linear1(self.norm2(tokens))))
        return tokens + self.dropout(self.linear2(hidden)), state


class CausalTransformer(OnlineNetwork):
    """The detector: ``forward`` returns logits of every token and masks the missing past of a stream's first tokens.

    Args:
        layers: finished layers, first to last.
        window: number of tokens that the layers together reach back; None is the whole past.
        future: predict this many tokens ahead, L.
    """

    dense = True

    def __init__(
        self,
        layers: list[CausalLayer],
        num_classes: int,
        feature_dim: int,
        width: int,
        window: int | None,
        dropout: float,
        future: int,
    ) -> None:
        super().__init__()
        self.num_classes, self.feature_dim, self.window = num_classes, feature_dim, window
        self.future_offsets = tuple(range(1, future + 1))
        # The features of different backbones differ in scale by orders of magnitude, so they are normalised here.
        self.input_norm = nn.LayerNorm(feature_dim)
        self.input = nn.Linear(feature_dim, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)
        self.future_hidden = nn.Linear(width, width) if future else None
        self.future_classifier = nn.Linear(width, future * num_classes) if future else None
        self._initialise()

    def _initialise(self) -> None:
        """Start with unit variance through every map, and with small residual branches and logits."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                std = module.in_features**-0.5
                if name.endswith(("attention.out", "linear2")):
                    std /= math.sqrt(2 * len(self.layers))  # GPT-2's rule: the residual sum keeps its size with depth
                elif name.endswith("classifier"):
                    std = 0.02
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: Tensor, start: Tensor | None = None) -> OnlineOutput:
        """Return logits of every token (n = T); those before ``start`` have no meaning."""
        self.check(features)
        state = self.initial_state(len(features))
        if start is not None:  # a stream whose token 0 is at ``start`` counts from -start
            state["count"] = state["count"] - start.to(state["count"])
        pieces = []
        for piece in features.split(CHUNK, 1):
            tokens, state = self._advance(piece, state)
            pieces.append(tokens)
        return self._classify(torch.cat(pieces, 1))

    def initial_state(self, batch_size: int = 1) -> State:
        return {
            "count": torch.zeros(batch_size, dtype=torch.int64, device=self.classifier.weight.device),
            "layers": [layer.attention.initial_state(batch_size) for layer in self._layers()],
        }

    def step(self, feature: Tensor, state: State) -> tuple[OnlineOutput, State]:
        self.check(feature)
        tokens, state = self._advance(feature.unsqueeze(1), state)
        return self._classify(tokens), state

    def _layers(self) -> list[CausalLayer]:
        return [layer for layer in self.layers if isinstance(layer, CausalLayer)]

    def _advance(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """Return hidden tokens (B, n, width) of each stream's next n features, and the state after them."""
        n = features.shape[1]
        positions = state["count"][:, None] + torch.arange(n, device=features.device)
        # Under autocast the map's output is in half precision; the sum of the residual branches must not be.
        tokens = self.dropout(self.input(self.input_norm(features)).to(features.dtype))
        states = []
        for layer, old in zip(self._layers(), state["layers"], strict=True):
            tokens, new = layer(tokens, positions, old)
            states.append(new)
        return self.norm(tokens), {"count": state["count"] + n, "layers": states}

    def _classify(self, tokens: Tensor) -> OnlineOutput:
        logits = self.classifier(self.dropout(tokens))
        if self.future_hidden is None or self.future_classifier is None:
            return OnlineOutput(logits)
        hidden = self.dropout(F.gelu(self.future_hidden(tokens)))
        return OnlineOutput(logits, self.future_classifier(hidden).unflatten(-1, (-1, self.num_classes)))


@builder
def causal_transformer(
    num_classes: int,
    feature_dim: int,
    width: int = 256,
    layers: int = 2,
    heads: int = 4,
    attention: str = "softmax",
    window: int | None = None,
    dropout: float = 0.1,
    future: int = 0,
) -> CausalTransformer:
    """Our detector: causal, with relative positions and the same cost at every step.

    Args:
        num_classes: number of outputs K, the background first.
        feature_dim: size D of a token's features.
        width: width of a token between the layers.
        layers: number of layers.
        heads: heads of the attention; they divide the width.
        attention: "softmax" (a window of tokens), "linear" or "state_space" (the whole past in a state of fixed size).
        window: number of tokens that one softmax layer attends to, the newest included; None is 64. The layers together
            reach (window − 1) * layers + 1 tokens, which is the network's ``window``. Other kinds have no window.
        dropout: dropout rate on the input tokens, on the layers' branches and before the classifiers.
        future: predict this many tokens ahead; 0 is none.
    """
    if attention not in ("softmax", "linear", "state_space"):
        raise ValueError(f"attention is {attention!r}; it is 'softmax', 'linear' or 'state_space'")
    if attention != "softmax" and window is not None:
        raise ValueError(
            f"window is {window}, but attention={attention!r} remembers the whole past; leave window None, "
            "or take attention='softmax'"
        )
    if width % heads or (width // heads) % 2:
        raise ValueError(f"width is {width} and heads {heads}; each head needs a whole and even share of the width")
    if layers < 1 or future < 0:
        raise ValueError(
            f"layers is {layers} and future {future}; at least one layer is needed, and future is 0 or more"
        )
    reach = 64 if window is None else window
    if reach < 1:
        raise ValueError(f"window is {window}; a token sees itself at least, so it is 1 or more")

    def kind() -> SoftmaxAttention | LinearAttention | StateSpace:
        if attention == "softmax":
            return SoftmaxAttention(width, heads, reach)
        return LinearAttention(width, heads) if attention == "linear" else StateSpace(width, heads)

    return CausalTransformer(
        [CausalLayer(kind(), width, dropout) for _ in range(layers)],
        num_classes,
        feature_dim,
        width,
        (reach - 1) * layers + 1 if attention == "softmax" else None,
        dropout,
        future,
    )
