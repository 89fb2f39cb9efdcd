"""Llama-family models on a flat batch of tokens: Llama, SmolLM2, Mistral, Qwen2, Qwen3.

Shapes: T tokens of all sequences one after another, H query heads, G KV heads, D head_dim.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import LlamaConfig
from .linear import Linear


class Attention(Protocol):
    """Knows which sequence each token belongs to; owns the KV cache."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Stores key and value [T, G, D]; returns the attention of query [T, H, D], [T, H, D]."""
        ...


class RMSNorm(nn.Module):
    """Root mean square norm over the last dimension."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self._eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normed x [..., size]."""
        return functional.rms_norm(x, self.weight.shape, self.weight, self._eps)


class Embedding(nn.Module):
    """A table of vectors, uninitialized like the projections."""

    def __init__(self, entries: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(entries, size))

    def forward(self, ids: Tensor) -> Tensor:
        """The vectors [T, size] of ids [T]."""
        return functional.embedding(ids, self.weight)


class SelfAttention(nn.Module):
    """Projections and rotation around what `Attention` computes."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self._layer = layer
        self._heads, self._kv_heads, self._head_dim = config.heads, config.kv_heads, config.head_dim
        width = (config.heads + 2 * config.kv_heads) * config.head_dim
        self.qkv_proj = Linear(config.hidden_size, width, bias=config.qkv_bias)
        self.o_proj = Linear(
            config.heads * config.head_dim, config.hidden_size, bias=config.output_bias
        )
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.norm_eps)
        self._qk_norm = config.qk_norm

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attention: Attention) -> Tensor:
        """The block's output [T, hidden] for x [T, hidden]; cos and sin [T, 1, D]."""
        heads, kv_heads = self._heads, self._kv_heads
        qkv = self.qkv_proj(x).view(len(x), heads + 2 * kv_heads, self._head_dim)
        qk, value = torch.split(qkv, [heads + kv_heads, kv_heads], dim=1)
        if self._qk_norm:
            query, key = torch.split(qk, [heads, kv_heads], dim=1)
            qk = torch.cat((self.q_norm(query), self.k_norm(key)), dim=1)
        query, key = torch.split(rotate(qk, cos, sin), [heads, kv_heads], dim=1)
        out = attention.attend(self._layer, query, key, value)
        projected: Tensor = self.o_proj(out.reshape(len(x), -1))
        return projected


class MLP(nn.Module):
    """The gated feed-forward network (SwiGLU)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_up_proj = Linear(hidden, 2 * inner, bias=bias)
        self.down_proj = Linear(inner, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output [T, hidden] for x [T, hidden]."""
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        projected: Tensor = self.down_proj(functional.silu(gate) * up)
        return projected


class Layer(nn.Module):
    """Attention and network, each with a norm before and a residual around."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = SelfAttention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attention: Attention) -> Tensor:
        """The block's output [T, hidden] for x [T, hidden]; cos and sin [T, 1, D]."""
        x = x.add(self.self_attn(self.input_layernorm(x), cos, sin, attention))
        return x.add(self.mlp(self.post_attention_layernorm(x)))


class Llama(nn.Module):
    """Parameters are named as in checkpoints, less "model."; qkv and gate_up are merged."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        if config.tied_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(
        self, ids: Tensor, cos: Tensor, sin: Tensor, attention: Attention, rows: Tensor
    ) -> Tensor:
        """Float32 logits [R, vocab] of the tokens `rows` [R] of ids [T]; cos and sin [T, 1, D]."""
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, cos, sin, attention)
        # A prompt's logits would be gigabytes; only what samples is computed.
        return self.lm_head.in_float32(self.norm(x[rows]))


def rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Rotary embedding of x [T, heads, D]: rotates the pairs (i, i + D/2)."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), signed_sin)
