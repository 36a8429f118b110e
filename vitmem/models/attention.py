"""Attention opened: projections that are bare tensors as linear layers, which can be watched and edited.

``nn.MultiheadAttention`` keeps the projections to queries, keys and values as one bare tensor and calls no module for
them, so nothing that works layer by layer sees them. ``opened`` replaces it by the same function with two
``nn.Linear``, ``in_proj`` and ``out_proj``; ``closed_names`` leads back to PyTorch's names. The attention of timm's
BEiT and EVA adds its biases outside of its linear layer when told to, and is told to.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class OpenAttention(nn.Module):
    """Multi-head self-attention that computes what an ``nn.MultiheadAttention`` does, by two ``nn.Linear``.

    Args:
        closed: what is opened; its weights are shared. It must attend within one sequence of one width, without
            ``add_bias_kv`` and ``add_zero_attn``.

    Raises:
        ValueError: it has separate widths, or biases of keys and values.
    """

    def __init__(self, closed: nn.MultiheadAttention):
        super().__init__()
        if closed.in_proj_weight is None or closed.bias_k is not None or closed.add_zero_attn:
            raise ValueError("attention over other widths, or with biases of keys and values, cannot be opened")
        width, bias = closed.embed_dim, closed.in_proj_bias is not None
        self.embed_dim, self.num_heads, self.head_dim = width, closed.num_heads, closed.head_dim
        self.batch_first, self.dropout = closed.batch_first, closed.dropout
        self.in_proj = nn.Linear(width, 3 * width, bias, device="meta")
        self.in_proj.weight, self.in_proj.bias = closed.in_proj_weight, closed.in_proj_bias
        self.out_proj = nn.Linear(width, width, closed.out_proj.bias is not None, device="meta")
        self.out_proj.weight, self.out_proj.bias = closed.out_proj.weight, closed.out_proj.bias
        # what nn.TransformerEncoderLayer asks before it takes a way round the modules, which these answers close
        self._qkv_same_embed_dim, self.in_proj_bias = False, None
        self.train(closed.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what ``nn.MultiheadAttention`` returns.

        Raises:
            ValueError: queries, keys and values are not one sequence.
        """
        if key is not query or value is not query or query.ndim != 3:
            raise ValueError("attention that is opened is within one batch of sequences, queries, keys and values one")
        x_BSC = query if self.batch_first else query.transpose(0, 1)
        examples, positions, width = x_BSC.shape
        heads = (examples, positions, 3, self.num_heads, self.head_dim)
        q, k, v = self.in_proj(x_BSC).view(heads).permute(2, 0, 3, 1, 4)
        mask = _mask(attn_mask, key_padding_mask, q)
        if need_weights:
            score = q @ k.transpose(-1, -2) / self.head_dim**0.5
            weight = (score if mask is None else score + mask).softmax(-1)
            y = F.dropout(weight, self.dropout, self.training) @ v
        else:
            weight = None
            y = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        y_BSC = self.out_proj(y.transpose(1, 2).reshape(examples, positions, width))
        if weight is not None and average_attn_weights:
            weight = weight.mean(1)
        return (y_BSC if self.batch_first else y_BSC.transpose(0, 1)), weight


def _mask(attn_mask: Tensor | None, key_padding_mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Return what is added to the scores B H S S; None for nothing."""
    found = None
    for mask, is_padding in ((attn_mask, False), (key_padding_mask, True)):
        if mask is None:
            continue
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, -torch.inf)
        if is_padding:
            mask = mask[:, None, None]
        elif mask.ndim == 3:
            mask = mask.view(len(like), -1, *mask.shape[1:])
        found = mask if found is None else found + mask
    return found


_APART = "qkv_bias_separate"  # of timm's attention with biases of queries and values alone


def opened(model: nn.Module) -> nn.Module:
    """Return a model that computes the same, its attentions opened; itself where there is nothing to open.

    The model is not changed, and the weights are shared with it.

    Raises:
        ValueError: an attention cannot be opened.
    """
    if not any(_is_plain(m) or getattr(m, _APART, True) is False for m in model.modules()):
        return model
    twin = copy.deepcopy(model, {id(t): t for t in [*model.parameters(), *model.buffers()]})
    for module in list(twin.modules()):
        if hasattr(module, _APART):
            setattr(module, _APART, True)
        for name, child in module.named_children():
            if _is_plain(child):
                setattr(module, name, OpenAttention(child))
    return twin


def _is_plain(module: nn.Module) -> bool:
    """Tell PyTorch's attention from others that derive from it and compute something else."""
    return isinstance(module, nn.MultiheadAttention) and type(module).forward is nn.MultiheadAttention.forward


def closed_names(model: nn.Module) -> dict[str, str]:
    """Return, for an opened model, PyTorch's names of its weights by their names there; equal ones are left out."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, OpenAttention):
            prefix = f"{name}." if name else ""
            found[f"{prefix}in_proj.weight"] = f"{prefix}in_proj_weight"
            if module.in_proj.bias is not None:
                found[f"{prefix}in_proj.bias"] = f"{prefix}in_proj_bias"
    return found


def opened_state(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of the model that was opened under the names of the opened one."""
    names = {closed: name for name, closed in closed_names(model).items()}
    return {names.get(name, name): value for name, value in state.items()}


def closed_state(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of an opened model under the names of the model that was opened."""
    names = closed_names(model)
    return {names.get(name, name): value for name, value in state.items()}
