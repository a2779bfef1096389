"""``nn.MultiheadAttention`` whose heads can be cut; PyTorch's own fixes their number to the embedding width."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

# what else nn.MultiheadAttention takes, in its order; a causal mask comes as a mask, too
OPTIONS = ("key_padding_mask", "need_weights", "attn_mask", "average_attn_weights", "is_causal")


class HeadAttention(nn.Module):
    """Computes ``nn.MultiheadAttention`` with any number of heads, independent of the embedding width.

    It has the same inputs and outputs, but accepts no mask that differs between heads.
    """

    def __init__(self, dense: nn.MultiheadAttention) -> None:
        super().__init__()
        size: int = dense.embed_dim
        self.q, self.k, self.v = (_linear(*each) for each in _projections(dense))
        self.out = _linear(dense.out_proj.weight, dense.out_proj.bias)
        self.head_size = size // dense.num_heads
        self.dropout = dense.dropout
        self.batch_first = dense.batch_first
        self.in_proj_bias = None  # tells nn.TransformerEncoderLayer that its fused kernel does not fit
        self._qkv_same_embed_dim = False  # tells it the same
        self.train(dense.training)

    @property
    def num_heads(self) -> int:
        """The number of heads."""
        heads: int = self.q.out_features // self.head_size
        return heads

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *given: Any, **named: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(batch, tokens, width) each, or (tokens, batch, width) → the same, and the attention weights if requested."""
        options = dict(zip(OPTIONS, given, strict=False)) | named
        unbatched = query.dim() == 2
        if unbatched:
            query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        q, k, v = self._heads(self.q(query)), self._heads(self.k(key)), self._heads(self.v(value))
        mask = _mask(options.get("attn_mask"), options.get("key_padding_mask"), q)
        scores = q @ k.transpose(-2, -1) * self.head_size**-0.5
        weights = functional.softmax(scores if mask is None else scores + mask, dim=-1)
        mixed = functional.dropout(weights, self.dropout, self.training) @ v  # (batch, heads, tokens, head_size)
        mixed = self.out(mixed.transpose(1, 2).flatten(2))
        averaged = weights.mean(dim=1) if options.get("average_attn_weights", True) else weights
        returned_weights = averaged if options.get("need_weights", True) else None
        if unbatched:
            return mixed.squeeze(0), None if returned_weights is None else returned_weights.squeeze(0)
        return mixed if self.batch_first else mixed.transpose(0, 1), returned_weights

    def _heads(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, heads * head_size) → (batch, heads, tokens, head_size)."""
        return tokens.unflatten(-1, (-1, self.head_size)).transpose(1, 2)


def make_heads_prunable(model: nn.Module) -> nn.Module:
    """Replace each ``nn.MultiheadAttention`` by an equivalent whose heads can be cut.

    Attention with its own key or value bias, or with added zero keys, is not replaced and not cut.
    """
    if isinstance(model, nn.MultiheadAttention):
        return _replacement(model, {})
    replacements: dict[nn.Module, nn.Module] = {}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, nn.MultiheadAttention):
            holder = model.get_submodule(path.rpartition(".")[0])
            setattr(holder, path.rpartition(".")[2], _replacement(module, replacements))
    return model


def _replacement(module: nn.MultiheadAttention, replacements: dict[nn.Module, nn.Module]) -> nn.Module:
    if type(module) is not nn.MultiheadAttention or module.bias_k is not None or module.add_zero_attn:
        return module
    if module not in replacements:
        replacements[module] = HeadAttention(module)
    return replacements[module]


def _projections(dense: nn.MultiheadAttention) -> list[tuple[Any, Any]]:
    """Return the weights and biases of queries, keys and values."""
    joint = dense.in_proj_weight
    weights = joint.chunk(3) if joint is not None else (dense.q_proj_weight, dense.k_proj_weight, dense.v_proj_weight)
    biases = dense.in_proj_bias.chunk(3) if dense.in_proj_bias is not None else (None, None, None)
    needed = dense.out_proj.weight.requires_grad if joint is None else joint.requires_grad
    return [(nn.Parameter(w, needed), b) for w, b in zip(weights, biases, strict=True)]


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    for one in layer.parameters():
        one.requires_grad_(weight.requires_grad)
    return layer


def _mask(attention: torch.Tensor | None, padding: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    """Return the mask to add to the scores, (tokens, keys) or (batch, 1, 1, keys): -inf at keys that are not read."""
    masks = []
    if attention is not None:
        if attention.dim() != 2:
            raise ValueError("a mask for each head does not fit attention of which heads were cut")
        masks.append(_added(attention, like))
    if padding is not None:
        masks.append(_added(padding, like)[:, None, None, :])
    return sum(masks[1:], masks[0]) if masks else None


def _added(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
