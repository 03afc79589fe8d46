"""A small decoder-only transformer. Radford et al. 2019 (GPT-2): pre-LayerNorm, learned positions, GELU."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Causal self-attention, then a layer of four times the width, each beside a path that leaves x as it is."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.query_key_value(self.before_attention(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.drop(self.mixed(seen.transpose(1, 2).reshape(batch, length, width)))
        return x + self.drop(self.narrow(nn.functional.gelu(self.wide(self.before_mlp(x)))))


class GPT(nn.Module):
    """From (batch, length) tokens, length at most `context`, to (batch, length, vocabulary) logits of the next one."""

    def __init__(self, vocabulary: int, context: int, layers: int, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(layers)))
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        for name, part in self.named_modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                # what is added to the path is the less the more layers add to it
                deep = name.endswith(("mixed", "narrow"))
                nn.init.normal_(part.weight, std=0.02 / math.sqrt(2 * layers) if deep else 0.02)
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        position = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.last(self.blocks(self.token(tokens) + self.position(position))))
