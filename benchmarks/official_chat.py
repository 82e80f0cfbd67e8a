# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Official generation, its operations written again by us.

The computations of MiniGPT-4 @ d94738a and of its transformers 4.30.2, in
their order: LLaMA's layers with materialised scores, cosines looked up in each
layer, K and V concatenated for each token, logits of all positions in fp32,
and a loop that checks each stop string after each token in all sequences. It
is written with functions, which spares the peer most module calls; decoding is
greedy.

Source: ``conversation/conversation.py`` and ``models/minigpt_base.py`` of
MiniGPT-4 @ d94738a; ``models/llama/modeling_llama.py`` and
``generation/utils.py`` (``greedy_search``) of transformers 4.30.2.
"""

import math
from collections.abc import Sequence

import torch
from official import OfficialModel
from torch import Tensor, nn

# K and V of each layer, ``(B, heads, T, D)``
KeyValues = list[tuple[Tensor, Tensor]]


class StoppingCriteriaSub:
    """Whether all sequences end with one of the stop strings."""

    def __init__(self, stops: Sequence[Tensor]) -> None:
        self.stops = stops

    def __call__(self, ids: Tensor) -> bool:
        """``(B, generated)`` ids."""
        for stop in self.stops:
            if torch.all(stop == ids[:, -len(stop) :]).item():
                return True
        return False


class OfficialLlama:
    """LLaMA and greedy search of transformers 4.30.2.

    Args:
        llm: A LLaMA of current transformers, which shares its weights.
    """

    def __init__(self, llm) -> None:
        config = llm.config
        self.llm, self.model = llm, llm.model
        self.heads = config.num_attention_heads
        self.width = config.hidden_size // self.heads
        self.eps = config.rms_norm_eps
        powers = torch.arange(0, self.width, 2).float() / self.width
        angles = torch.outer(
            torch.arange(config.max_position_embeddings).float(),
            1.0 / 10000**powers,
        )
        angles = torch.cat((angles, angles), dim=-1)[None, None]
        self.cos, self.sin = angles.cos(), angles.sin()

    def norm(self, x: Tensor, norm: nn.Module) -> Tensor:
        """Apply an RMS norm."""
        dtype = x.dtype
        variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
        x = x * torch.rsqrt(variance + self.eps)
        return (norm.weight * x).to(dtype)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Apply the rotary embedding."""
        a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return (x * cos) + (torch.cat((-b, a), dim=-1) * sin)

    def attention(
        self,
        layer: nn.Module,
        x: Tensor,
        mask: Tensor,
        positions: Tensor,
        past,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Self-attention with materialised scores."""
        batch, length, _ = x.shape

        def split(y: Tensor) -> Tensor:
            y = y.view(batch, length, self.heads, self.width)
            return y.transpose(1, 2)

        query = split(layer.q_proj(x))
        key = split(layer.k_proj(x))
        value = split(layer.v_proj(x))
        total = length + (0 if past is None else past[0].shape[-2])
        cos, sin = (
            table[:, :, :total, ...]
            .to(dtype=value.dtype)
            .squeeze(1)
            .squeeze(0)[positions]
            .unsqueeze(1)
            for table in (self.cos, self.sin)
        )
        query, key = self.rotate(query, cos, sin), self.rotate(key, cos, sin)
        if past is not None:
            key = torch.cat([past[0], key], dim=2)
            value = torch.cat([past[1], value], dim=2)
        scores = torch.matmul(query, key.transpose(2, 3))
        scores = scores / math.sqrt(self.width) + mask
        lowest = torch.tensor(torch.finfo(scores.dtype).min)
        scores = torch.max(scores, lowest)
        scores = nn.functional.softmax(scores, dim=-1, dtype=torch.float32)
        y = torch.matmul(scores.to(query.dtype), value).transpose(1, 2)
        return layer.o_proj(y.reshape(x.shape)), (key, value)

    def mask(self, seen: Tensor, length: int, dtype: torch.dtype) -> Tensor:
        """``(B, 1, T, S)``, added to scores."""
        batch, total = seen.shape
        lowest = torch.finfo(dtype).min
        wide = seen[:, None, None, :].expand(batch, 1, length, total)
        wide = 1.0 - wide.to(dtype)
        wide = wide.masked_fill(wide.to(torch.bool), lowest)
        if length == 1:
            return wide
        causal = torch.full((length, length), torch.tensor(lowest))
        order = torch.arange(length)
        causal.masked_fill_(order < (order + 1).view(length, 1), 0)
        return wide + causal.to(dtype)[None, None].expand(batch, 1, -1, -1)

    def __call__(
        self, embeddings: Tensor, seen: Tensor, past: KeyValues | None
    ) -> tuple[Tensor, KeyValues]:
        """Compute logits ``(B, T, V)`` of new positions, and K and V of all.

        Args:
            embeddings: ``(B, T, hidden_size)`` of the new positions.
            seen: ``(B, S)`` mask of all positions, 0 at pads.
            past: K and V of earlier positions.
        """
        positions = seen.long().cumsum(-1) - 1
        positions.masked_fill_(seen == 0, 1)
        if past is not None:
            positions = positions[:, -1].unsqueeze(-1)
        x = embeddings
        mask = self.mask(seen, x.shape[1], x.dtype)
        now: KeyValues = []
        for i, layer in enumerate(self.model.layers):
            y, key_value = self.attention(
                layer.self_attn,
                self.norm(x, layer.input_layernorm),
                mask,
                positions,
                None if past is None else past[i],
            )
            now.append(key_value)
            x = x + y
            y = self.norm(x, layer.post_attention_layernorm)
            mlp = layer.mlp
            y = mlp.down_proj(mlp.act_fn(mlp.gate_proj(y)) * mlp.up_proj(y))
            x = x + y
        logits = self.llm.lm_head(self.norm(x, self.model.norm))
        return logits.float(), now

    @torch.no_grad()
    def generate(
        self,
        embeddings: Tensor,
        max_new_tokens: int,
        stops: Sequence[Tensor] = (),
    ) -> Tensor:
        """``(B, generated)`` ids after ``(B, T, hidden_size)`` prompts.

        It ends when all have EOS, or all end with one of the stop strings.
        """
        batch = len(embeddings)
        seen = torch.ones(embeddings.shape[:2], dtype=torch.long)
        ids = torch.zeros((batch, 0), dtype=torch.long)
        eos = torch.tensor([self.llm.config.eos_token_id])
        unfinished = torch.ones(batch, dtype=torch.long)
        stop, past = StoppingCriteriaSub(stops), None
        while True:
            logits, past = self(embeddings, seen, past)
            best = torch.argmax(logits[:, -1, :], dim=-1)
            best = best * unfinished
            ids = torch.cat([ids, best[:, None]], dim=-1)
            seen = torch.cat([seen, seen.new_ones((batch, 1))], dim=-1)
            more = best.tile(len(eos), 1).ne(eos.unsqueeze(1)).prod(dim=0)
            unfinished = unfinished.mul(more)
            if unfinished.max() == 0 or stop(ids):
                return ids
            if ids.shape[-1] >= max_new_tokens:
                return ids
            embeddings = self.model.embed_tokens(best[:, None])


def stop_ids(tokenizer) -> list[Tensor]:
    """The two tokenizations of ``###`` in the demo."""
    pound = tokenizer.encode('###', add_special_tokens=False)
    glued = tokenizer.encode('.###', add_special_tokens=False)
    return [torch.tensor(pound), torch.tensor(glued[-2:])]


class OfficialChat:
    """The part of the official demo's ``Chat`` that answers.

    Args:
        model: Its model.
    """

    def __init__(self, model: OfficialModel) -> None:
        self.model = model
        self.llama = OfficialLlama(model.llm)
        self.stops = stop_ids(model.tokenizer)

    def context(self, ids: Sequence[int], images: Tensor) -> Tensor:
        """Embed a prompt piece by piece: ``(1, T, hidden_size)``.

        Args:
            ids: Token ids; a negative id is the next image.
            images: ``(N, Q, hidden_size)`` image features.
        """
        pieces: list[list[int]] = [[]]
        for token in ids:
            if token < 0:
                pieces.append([])
            else:
                pieces[-1].append(token)
        mixed = []
        for i, piece in enumerate(pieces):
            if i:
                mixed.append(images[i - 1][None])
            mixed.append(self.model.words(torch.tensor([piece])))
        return torch.cat(mixed, dim=1)

    def answer(
        self, ids: Sequence[int], images: Tensor, max_new_tokens: int
    ) -> list[int]:
        """Generate the ids of an answer, with an empty cache."""
        embeddings = self.context(ids, images)
        (answer,) = self.llama.generate(
            embeddings, max_new_tokens, self.stops
        ).tolist()
        return answer
