# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Makes the frozen parts of the nano model from a seed.

The nano model stands for the real one part by part: a LLaMA-architecture
language model that has only read (:func:`pretrain_llm`), an EVA-ViT and a
Q-Former that have only looked (:func:`pretrain_vision`), and a SentencePiece
tokenizer (:func:`train_tokenizer`). ``tools/build_nano.py`` calls them.
"""

import io
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from ..models.data_preprocessor import MEAN, STD
from ..models.eva_vit import EVAViT
from ..models.q_former import QFormer
from . import grammar
from .world import (
    BACKGROUNDS,
    COLORS,
    SHAPES,
    SIZES,
    render,
    sample_scene,
)

VOCAB_SIZE = 768
LLM_CONFIG: dict[str, Any] = dict(
    vocab_size=VOCAB_SIZE,
    hidden_size=192,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=6,
    max_position_embeddings=512,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
BACKBONE_CONFIG: dict[str, Any] = dict(arch='nano', img_size=64, patch_size=8)
NECK_CONFIG: dict[str, Any] = dict(
    in_channels=128,
    num_queries=22,
    width=128,
    depth=2,
    num_heads=4,
    mlp_width=512,
    cross_every=1,
)
CORNER_WORDS = ('top', 'bottom', 'left', 'right')
MAX_NOISE = 0.6  # standard deviations of the word embeddings


def train_tokenizer(path: Path, seed: int = 0) -> None:
    """Train the SentencePiece model (BPE, byte fallback, as LLaMA's).

    Args:
        path: Where ``tokenizer.model`` is written.
        seed: Seed of the corpus.
    """
    rng = random.Random(seed)
    corpus = ['### Human: <Img> </Img> ### Assistant: ###Human ###']
    for _ in range(20000):
        scene = sample_scene(rng)
        asked = grammar.question(rng.choice(grammar.TASKS), scene, rng)
        corpus += [grammar.scene_text(scene, rng), grammar.caption(scene, rng)]
        corpus += asked or ()
        corpus += rng.choice(grammar.SMALL_TALK)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        model_type='bpe',
        vocab_size=VOCAB_SIZE,
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        normalization_rule_name='identity',
        character_coverage=1.0,
        user_defined_symbols=[],
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())


def _documents(tokenizer, rng: random.Random) -> Iterator[tuple]:
    """Endless documents as ``(ids, supervised, first, last)``.

    Three in ten are a scene and its web caption, as stage 1 shows them; the
    others a talk of some questions about a scene, as stage 2 and chat
    render them; one in twenty is small talk without a scene. Captions
    and answers are supervised; ``first`` and ``last`` bound the scene's
    words.
    """
    encode = tokenizer.encode
    while True:
        scene = sample_scene(rng)
        words = encode(grammar.scene_text(scene, rng))
        kind = rng.random()
        if kind < 0.3:
            pieces = [
                ([1], False),
                (words, False),
                (encode(grammar.caption(scene, rng) + '\n'), True),
            ]
            first = 1
        elif kind < 0.35:
            asked, answer = rng.choice(grammar.SMALL_TALK)
            pieces = [
                ([1], False),
                (encode(f'###Human: {asked} ###Assistant: '), False),
                (encode(f'{answer}###'), True),
            ]
            first, words = 0, []
        else:
            opening = encode('###Human: <Img>')
            pieces = [([1], False), (opening, False), (words, False)]
            first = 1 + len(opening)
            before = '</Img> '
            # short answers need more practice than their tokens give them
            tasks = rng.sample(
                ('describe', 'poem', 'count', 'advertise'), rng.randint(1, 2)
            )
            tasks += rng.choices(('color', 'place'), k=rng.randint(1, 4))
            rng.shuffle(tasks)
            for task in tasks:
                pair = grammar.question(task, scene, rng)
                if pair is not None:
                    pieces += [
                        (encode(f'{before}{pair[0]} ###Assistant: '), False),
                        (encode(f'{pair[1]}###'), True),
                    ]
                    before = 'Human: '
        ids = [token for piece, _ in pieces for token in piece]
        supervised = [learn for piece, learn in pieces for _ in piece]
        yield ids, supervised, first, first + len(words)


def _batches(
    documents: Iterator[tuple], tokens: int, rng: random.Random
) -> Iterator[tuple[Tensor, ...]]:
    """Endless batches of documents of about one length.

    Yields:
        ``ids`` and ``labels`` (B, T) and ``scene`` (B, T) bool, with
        ``B * T`` at most ``tokens``.
    """
    while True:
        pool = sorted(
            (next(documents) for _ in range(1024)),
            key=lambda document: len(document[0]),
        )
        cuts, start = [], 0
        for end in range(1, len(pool) + 1):
            too_wide = end < len(pool) and (
                (end + 1 - start) * len(pool[end][0]) > tokens
            )
            if too_wide or end == len(pool):
                cuts.append(pool[start:end])
                start = end
        rng.shuffle(cuts)
        for rows in cuts:
            width = len(rows[-1][0])
            ids = torch.zeros(len(rows), width, dtype=torch.long)
            labels = torch.full_like(ids, -100)
            scene = torch.zeros(len(rows), width, dtype=torch.bool)
            for i, (row, supervised, first, last) in enumerate(rows):
                ids[i, : len(row)] = torch.tensor(row)
                learn = torch.tensor(supervised)
                labels[i, : len(row)][learn] = torch.tensor(row)[learn]
                scene[i, first:last] = True
            yield ids, labels, scene


def _learning_rate(step: int, steps: int, peak: float) -> float:
    """Warm-up over 100 steps, then half a cosine to a fiftieth."""
    if step < 100:
        return peak * (step + 1) / 100
    progress = (step - 100) / max(1, steps - 100)
    return peak * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))


def pretrain_llm(
    tokenizer_model: Path,
    steps: int,
    tokens: int = 4096,
    seed: int = 0,
    log=print,
) -> LlamaForCausalLM:
    """Pretrain the language model on text alone.

    The embeddings of a scene's words are scaled and blurred by a random
    amount, so that the model reads words that are only nearly right, as a
    linear layer will later show them.

    Args:
        tokenizer_model: The SentencePiece model.
        steps: Optimizer steps.
        tokens: Tokens of a step, at most.
        seed: Seed of weights, documents and noise.
        log: Called with one line of progress every 100 steps.

    Returns:
        The model in fp32.
    """
    torch.manual_seed(seed)
    tokenizer = sentencepiece.SentencePieceProcessor(
        model_file=str(tokenizer_model)
    )
    model = LlamaForCausalLM(LlamaConfig(**LLM_CONFIG))
    rng = random.Random(seed)
    batches = _batches(_documents(tokenizer, rng), tokens, rng)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.02
    )
    embed = model.get_input_embeddings()
    for step in range(steps):
        for group in optimizer.param_groups:
            group['lr'] = _learning_rate(step, steps, 2e-3)
        ids, labels, scene = next(batches)
        words = embed(ids)
        noise = torch.randn_like(words) * words.detach().std()
        amount = torch.rand(len(ids), 1, 1) * MAX_NOISE
        scale = torch.empty(len(ids), 1, 1).uniform_(0.7, 1.5)
        words = torch.where(
            scene[..., None], scale * words + amount * noise, words
        )
        # right padding under causal attention needs no mask
        hidden = model.model(inputs_embeds=words).last_hidden_state
        keep = labels[:, 1:] != -100
        logits = model.lm_head(hidden[:, :-1][keep])
        loss = F.cross_entropy(logits, labels[:, 1:][keep])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 99:
            log(
                f'language model step {step + 1}/{steps} '
                f'loss {loss.item():.4f}'
            )
    return model.eval()


def pretrain_vision(
    steps: int, batch_size: int = 64, seed: int = 0, log=print
) -> tuple[EVAViT, QFormer]:
    """Pretrain backbone and neck so that each query names one word.

    The words are read by one linear layer, which is then thrown away: what
    is linearly readable here decides how well MiniGPT-4's one linear layer
    can align (BLIP-2's image-text pretraining plays this part).

    Args:
        steps: Optimizer steps.
        batch_size: Pictures a step.
        seed: Seed of weights and pictures.
        log: Called with one line of progress every 100 steps.

    Returns:
        Backbone and neck in fp32.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    backbone = EVAViT(**BACKBONE_CONFIG, frozen=False)
    neck = QFormer(**NECK_CONFIG, dropout=0.0, frozen=False)
    # places have to be seen from the start, or nothing is learned for long
    nn.init.normal_(backbone.pos_embed, std=0.3)
    words = (
        '',
        *CORNER_WORDS,
        *SIZES,
        *COLORS,
        *SHAPES,
        *BACKGROUNDS,
        'background',
    )
    index = {word: i for i, word in enumerate(words)}
    reader = nn.Linear(neck.out_channels, len(words))
    parameters = [
        *backbone.parameters(),
        *neck.parameters(),
        *reader.parameters(),
    ]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.02)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    for step in range(steps):
        for group in optimizer.param_groups:
            group['lr'] = _learning_rate(step, steps, 1e-3)
        scenes = [sample_scene(rng) for _ in range(batch_size)]
        pixels = np.stack([np.asarray(render(s, rng)) for s in scenes])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        images = images + 4 * torch.randn_like(images)  # JPEG's blur
        target = torch.tensor(
            [
                [index[w] for w in grammar.query_words(scene)]
                for scene in scenes
            ]
        )
        logits = reader(neck(backbone((images / 255 - mean) / std)))
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 100 == 99:
            right = (logits.argmax(-1) == target).float().mean()
            log(
                f'vision step {step + 1}/{steps} loss {loss.item():.4f} '
                f'words named {right.item():.4f}'
            )
    return backbone.eval(), neck.eval()
