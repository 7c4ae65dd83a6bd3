"""Joint attention of FLUX's blocks with two streams."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelzoo.layers.attention import attention
from modelzoo.layers.norms import HeadNorm
from modelzoo.layers.rope import rotate


class JointAttention(nn.Module):
    """Attention over text and image tokens, each projected by its own weights."""

    def __init__(self, dim: int, head_dim: int, eps: float, bias: bool) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.to_q = nn.Linear(dim, dim, bias=bias)
        self.to_k = nn.Linear(dim, dim, bias=bias)
        self.to_v = nn.Linear(dim, dim, bias=bias)
        self.norm_q = HeadNorm(head_dim, eps)
        self.norm_k = HeadNorm(head_dim, eps)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim, bias=bias)])
        self.norm_added_q = HeadNorm(head_dim, eps)
        self.norm_added_k = HeadNorm(head_dim, eps)
        self.add_q_proj = nn.Linear(dim, dim, bias=bias)
        self.add_k_proj = nn.Linear(dim, dim, bias=bias)
        self.add_v_proj = nn.Linear(dim, dim, bias=bias)
        self.to_add_out = nn.Linear(dim, dim, bias=bias)

    def forward(self, txt: Tensor, img: Tensor, rope: Tensor) -> tuple[Tensor, Tensor]:
        """Give the attention outputs of txt (B, L, D) and img (B, N, D)."""
        heads = (-1, self.head_dim)
        txt_query = self.norm_added_q(self.add_q_proj(txt).unflatten(-1, heads))
        txt_key = self.norm_added_k(self.add_k_proj(txt).unflatten(-1, heads))
        img_query = self.norm_q(self.to_q(img).unflatten(-1, heads))
        img_key = self.norm_k(self.to_k(img).unflatten(-1, heads))
        query = rotate(torch.cat([txt_query, img_query], dim=1), rope)
        key = rotate(torch.cat([txt_key, img_key], dim=1), rope)
        value = torch.cat([self.add_v_proj(txt), self.to_v(img)], dim=1).unflatten(-1, heads)
        out = attention(query, key, value)
        txt_out, img_out = out.split([txt.shape[1], img.shape[1]], dim=1)
        return self.to_add_out(txt_out), self.to_out[0](img_out)
