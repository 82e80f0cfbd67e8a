# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The official training step, its operations written again by us.

The computations of MiniGPT-4 @ d94738a in a step, in their order: attention as
matrix products with materialised scores, biases of the ViT concatenated at
each call, prompts and answers tokenised inside the step, samples joined one by
one with tensors as slice bounds, padding to the longest, the last target as an
input, logits of all positions in fp32, shifted by a copy. It
reads the files of :mod:`mini_prop`.

Source: ``models/{eva_vit,Qformer,minigpt4,minigpt_base,modeling_llama}.py`` of
MiniGPT-4 @ d94738a, and transformers' eager LLaMA.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from mini_prop import SIZES, Folded
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE_HERE = '<ImageHere>'


class Weights:
    """Tensors of a file, by the name of a layer."""

    def __init__(self, tensors: dict[str, Tensor], prefix: str = '') -> None:
        self.tensors, self.prefix = tensors, prefix

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[f'{self.prefix}.{name}'.lstrip('.')]

    def at(self, name: str) -> 'Weights':
        """The tensors below a name."""
        return Weights(self.tensors, f'{self.prefix}.{name}'.lstrip('.'))

    def linear(self, name: str, x: Tensor) -> Tensor:
        """Apply a linear layer."""
        return F.linear(x, self[f'{name}.weight'], self[f'{name}.bias'])

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        """Apply a layer norm."""
        weight, bias = self[f'{name}.weight'], self[f'{name}.bias']
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def vit_attention(w: Weights, x: Tensor, num_heads: int) -> Tensor:
    """Self-attention of EVA-ViT with materialised scores."""
    batch, tokens, width = x.shape
    q_bias, v_bias = w['q_bias'], w['v_bias']
    bias = torch.cat((q_bias, torch.zeros_like(v_bias), v_bias))
    qkv = F.linear(input=x, weight=w['qkv.weight'], bias=bias)
    qkv = qkv.reshape(batch, tokens, 3, num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv[0], qkv[1], qkv[2]
    q = q * (width // num_heads) ** -0.5
    scores = q @ k.transpose(-2, -1)
    x = (scores.softmax(dim=-1) @ v).transpose(1, 2)
    return w.linear('proj', x.reshape(batch, tokens, width))


def vit(w: Weights, images: Tensor, sizes: dict) -> Tensor:
    """EVA-ViT: images to features."""
    kernel = w['patch_embed.proj.weight']
    x = F.conv2d(
        images, kernel, w['patch_embed.proj.bias'], stride=kernel.shape[-1]
    )
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat((w['cls_token'].expand(len(x), -1, -1), x), dim=1)
    x = x + w['pos_embed']
    for i in range(sizes['depth']):
        block = w.at(f'blocks.{i}')
        x = x + vit_attention(
            block.at('attn'), block.norm('norm1', x, 1e-6), sizes['num_heads']
        )
        y = block.linear('mlp.fc1', block.norm('norm2', x, 1e-6))
        x = x + block.linear('mlp.fc2', F.gelu(y))
    return x


def bert_attention(
    w: Weights, x: Tensor, context: Tensor, mask: Tensor, num_heads: int
) -> Tensor:
    """BERT's attention with materialised scores, residual and norm."""

    def heads(t: Tensor) -> Tensor:
        return t.view(*t.shape[:2], num_heads, -1).permute(0, 2, 1, 3)

    k, v = heads(w.linear('key', context)), heads(w.linear('value', context))
    q = heads(w.linear('query', x))
    scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
    y = torch.matmul(nn.functional.softmax(scores + mask, dim=-1), v)
    y = y.permute(0, 2, 1, 3).contiguous().view(x.shape)
    return w.norm('norm', w.linear('out', y) + x, 1e-12)


def q_former(w: Weights, features: Tensor, sizes: dict) -> Tensor:
    """The Q-Former: features to queries."""
    image = w.norm('ln_vision', features, 1e-5)
    x = w['query_tokens'].expand(len(image), -1, -1)
    x = w.norm('norm', x, 1e-12)
    own, theirs = (
        (1.0 - torch.ones(t.shape[:2])[:, None, None, :]) * -10000.0
        for t in (x, image)
    )
    heads = sizes['num_heads']
    for i in range(sizes['depth']):
        layer = w.at(f'layers.{i}')
        x = bert_attention(layer.at('attention'), x, x, own, heads)
        if i % 2 == 0:
            cross = layer.at('cross_attention')
            x = bert_attention(cross, x, image, theirs, heads)
        y = F.gelu(layer.linear('mlp.fc1', x))
        x = layer.norm('mlp.norm', layer.linear('mlp.fc2', y) + x, 1e-12)
    return x


class OfficialModel(nn.Module):
    """The training step of the official model, on a CPU in fp32.

    Args:
        folder: A folder of :func:`mini_prop.save`.
        end: End symbol of an answer.
        max_text_length: The most tokens of an answer.
        encode: Whether images are encoded; else they are given as queries.
    """

    def __init__(
        self, folder: Path, end: str, max_text_length: int, encode: bool = True
    ) -> None:
        super().__init__()
        from transformers import AutoTokenizer, LlamaForCausalLM

        self.sizes = SIZES[(folder / 'size').read_text()]
        self.end, self.max_text_length = end, max_text_length
        self.encode = encode
        if encode:
            self.vision = Weights(load_file(folder / 'backbone.safetensors'))
            self.neck = Weights(load_file(folder / 'neck.safetensors'))
        self.llm = LlamaForCausalLM.from_pretrained(
            folder / 'llm', attn_implementation='eager'
        )
        self.llm.requires_grad_(False)
        self.tokenizer = Folded(
            # transformers 5 omits LLaMA's BOS where the file is silent
            AutoTokenizer.from_pretrained(
                folder / 'llm', use_fast=False, add_bos_token=True
            ),
            self.llm.config.vocab_size,
        )
        self.tokenizer.pad_token = self.tokenizer.eos_token
        self.llama_proj = nn.Linear(
            self.sizes['q_former']['width'], self.llm.config.hidden_size
        )
        head = load_file(folder / 'head.safetensors')
        self.llama_proj.load_state_dict(
            {name.rpartition('.')[2]: t for name, t in head.items()}
        )

    def words(self, ids: Tensor) -> Tensor:
        """Embeddings of tokens."""
        return self.llm.model.embed_tokens(ids)

    def encode_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Image features and their mask."""
        if self.encode:
            features = vit(self.vision, images, self.sizes['vision'])
            images = q_former(self.neck, features, self.sizes['q_former'])
        tokens = self.llama_proj(images)
        return tokens, torch.ones(tokens.shape[:-1], dtype=torch.long)

    def wrap(
        self, tokens: Tensor, mask: Tensor, prompts: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Insert image features into prompts, sample by sample."""
        if not prompts:
            return tokens, mask
        rows = []
        for image, prompt in zip(tokens, prompts):
            before, after = prompt.split(IMAGE_HERE)
            pieces = []
            for text in (before, after):
                ids = self.tokenizer(
                    text, return_tensors='pt', add_special_tokens=False
                ).to(tokens.device)
                pieces.append(self.words(ids.input_ids))
                if text is before:
                    pieces.append(image[None])
            rows.append(torch.cat(pieces, dim=1))
        longest = max(row.shape[1] for row in rows)
        pad = self.words(torch.tensor(self.tokenizer.pad_token_id))
        wrapped = pad.expand(len(rows), longest, -1).clone()
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for i, row in enumerate(rows):
            wrapped[i, : row.shape[1]] = row[0]
            mask[i, : row.shape[1]] = 1
        return wrapped, mask

    def join(
        self,
        given: Tensor,
        given_mask: Tensor,
        answer: Tensor,
        answer_mask: Tensor,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Append answers to prompts, sample by sample; pads come last."""
        lengths, rows, masks = [], [], []
        for i in range(len(given)):
            length = given_mask[
                i
            ].sum()  # a tensor as index: a synchronisation
            lengths.append(length)
            rows.append(
                torch.cat((given[i][:length], answer[i], given[i][length:]))
            )
            masks.append(
                torch.cat(
                    (
                        given_mask[i][:length],
                        answer_mask[i],
                        given_mask[i][length:],
                    )
                )
            )
        return torch.stack(rows), torch.stack(masks), lengths

    def assemble(
        self,
        tokens: Tensor,
        mask: Tensor,
        prompts: Sequence[str],
        answers: Sequence[str],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings, mask and labels of a batch."""
        given, given_mask = self.wrap(tokens, mask, prompts)
        self.tokenizer.padding_side = 'right'
        answer_ids = self.tokenizer(
            [answer + self.end for answer in answers],
            return_tensors='pt',
            padding='longest',
            truncation=True,
            max_length=self.max_text_length,
            add_special_tokens=False,
        ).to(tokens.device)
        targets = answer_ids.input_ids.masked_fill(
            answer_ids.input_ids == self.tokenizer.pad_token_id, -100
        )
        rows, masks, lengths = self.join(
            given,
            given_mask,
            self.words(answer_ids.input_ids),
            answer_ids.attention_mask,
        )
        bos = torch.full_like(targets[:, :1], self.tokenizer.bos_token_id)
        rows = torch.cat((self.words(bos), rows), dim=1)
        masks = torch.cat((given_mask[:, :1], masks), dim=1)
        labels = torch.ones(rows.shape[:2], dtype=torch.long).fill_(-100)
        for i, target in enumerate(targets):
            start = lengths[i] + 1
            labels[i, start : start + len(target)] = target
        return rows, masks, labels

    def forward(
        self,
        images: Tensor,
        prompts: Sequence[str],
        answers: Sequence[str],
    ) -> Tensor:
        """The loss."""
        rows, masks, labels = self.assemble(
            *self.encode_images(images), prompts, answers
        )
        hidden = self.llm.model(
            inputs_embeds=rows, attention_mask=masks, use_cache=False
        ).last_hidden_state
        logits = self.llm.lm_head(hidden).float()
        logits = logits[..., :-1, :].contiguous()
        labels = labels[..., 1:].contiguous()
        return F.cross_entropy(
            logits.view(-1, logits.shape[-1]), labels.view(-1)
        )
