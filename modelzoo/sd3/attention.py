"""Attention of SD3.5: of image tokens alone, and of image and text tokens jointly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelzoo.layers.attention import attention
from modelzoo.layers.norms import HeadNorm
from modelzoo.sd3.config import SD3Config


class ImageHeads(nn.Module):
    """The weights by which image tokens take part in an attention."""

    def __init__(self, config: SD3Config) -> None:
        super().__init__()
        dim, head_dim = config.dim, config.attention_head_dim
        self.head_dim = head_dim
        self.to_q = nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim)
        self.to_v = nn.Linear(dim, dim)
        self.norm_q = HeadNorm(head_dim)
        self.norm_k = HeadNorm(head_dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def heads(self, img: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project img (B, N, D) to query, key and value (B, N, K, E)."""
        split = (-1, self.head_dim)
        query = self.norm_q(self.to_q(img).unflatten(-1, split))
        key = self.norm_k(self.to_k(img).unflatten(-1, split))
        return query, key, self.to_v(img).unflatten(-1, split)


class SelfAttention(ImageHeads):
    """Image tokens attend to each other."""

    def forward(self, img: Tensor) -> Tensor:
        """Give the update of img (B, N, D)."""
        return self.to_out[0](attention(*self.heads(img)))


class JointHeads(ImageHeads):
    """The weights by which image and text tokens take part in one attention."""

    def __init__(self, config: SD3Config) -> None:
        super().__init__(config)
        dim, head_dim = config.dim, config.attention_head_dim
        self.add_q_proj = nn.Linear(dim, dim)
        self.add_k_proj = nn.Linear(dim, dim)
        self.add_v_proj = nn.Linear(dim, dim)
        self.norm_added_q = HeadNorm(head_dim)
        self.norm_added_k = HeadNorm(head_dim)

    def attend(self, img: Tensor, txt: Tensor, asking: Tensor) -> tuple[Tensor, Tensor]:
        """Let img (B, N, D) and the tokens of txt (B, L, D) that ask attend to img and txt.

        The results still lack their last projections.
        """
        split = (-1, self.head_dim)
        img_query, img_key, img_value = self.heads(img)
        txt_query = self.norm_added_q(self.add_q_proj(asking).unflatten(-1, split))
        txt_key = self.norm_added_k(self.add_k_proj(txt).unflatten(-1, split))
        txt_value = self.add_v_proj(txt).unflatten(-1, split)
        out = attention(
            torch.cat([img_query, txt_query], dim=1),
            torch.cat([img_key, txt_key], dim=1),
            torch.cat([img_value, txt_value], dim=1),
        )
        img_out, txt_out = out.split([img.shape[1], asking.shape[1]], dim=1)
        return img_out, txt_out


class JointAttention(JointHeads):
    """Image and text tokens attend to all of each other."""

    def __init__(self, config: SD3Config) -> None:
        super().__init__(config)
        self.to_add_out = nn.Linear(config.dim, config.dim)

    def forward(self, img: Tensor, txt: Tensor) -> tuple[Tensor, Tensor]:
        """Give the updates of img (B, N, D) and txt (B, L, D)."""
        img_out, txt_out = self.attend(img, txt, txt)
        return self.to_out[0](img_out), self.to_add_out(txt_out)


class ReadingAttention(JointHeads):
    """Image tokens attend to image and text, and only they are updated.

    What the text asks comes to nothing, so that one of its tokens is enough. None would be too few:
    training on several devices waits for the gradient of every weight, though this one be zero.
    """

    def forward(self, img: Tensor, txt: Tensor) -> Tensor:
        """Give the update of img (B, N, D)."""
        return self.to_out[0](self.attend(img, txt, txt[:, :1])[0])
