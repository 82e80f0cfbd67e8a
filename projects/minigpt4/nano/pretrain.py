# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Pretrain the frozen weights of the nano model from a seed.

Like the real model, the nano model has a LLaMA language model pretrained on
text only (:func:`pretrain_llm`), an EVA-ViT and a Q-Former pretrained without
it (:func:`pretrain_vision`), and a SentencePiece tokenizer
(:func:`train_tokenizer`). ``tools/build_nano.py`` calls them. All sizes come
from the config of the model.
"""

import io
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from .. import compat
from ..models.data_preprocessor import MEAN, STD
from ..models.eva_vit import EVAViT
from ..models.q_former import QFormer
from ..weights.model_hub import our_models, read_config
from . import grammar, wordings
from .text_documents import TextDocuments, batches
from .world import (
    BACKGROUNDS,
    COLORS,
    SHAPES,
    SIZES,
    render,
    sample_scene,
)

MODEL = 'minigpt-4_nano_caption'
MAX_POSITIONS = 512
CORNER_WORDS = ('top', 'bottom', 'left', 'right')
EMBEDDING_STD = 0.5  # about that of the outputs of a new projection
# Of the embeddings of a scene: factors of 0.5 to 11. The outputs of a trained
# projection are 6 to 11 times as long as the embeddings of words.
LOG_SCALE = (-0.7, 2.4)
MAX_NOISE = 1.2  # standard deviations of the word embeddings
LIST_SHARE_OF_STEPS = 0.25  # lists of words first


def model_config() -> dict[str, Any]:
    """Read the config of the nano model, with the sizes of all its modules."""
    return read_config(our_models()[MODEL].config).model.to_dict()


def _module_config(name: str) -> dict[str, Any]:
    """Return the arguments of a module that is trained from scratch."""
    cfg = model_config()[name]
    return {k: v for k, v in cfg.items() if k not in ('type', 'checkpoint')}


def _llm_config() -> LlamaConfig:
    arch = dict(model_config()['decoder']['arch'])
    arch.pop('model_type')
    return LlamaConfig(
        **arch,
        max_position_embeddings=MAX_POSITIONS,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def train_tokenizer(path: Path, seed: int = 0, scenes: int = 20000) -> None:
    """Train the SentencePiece model (BPE with byte fallback, like LLaMA's).

    Args:
        path: The file to write, ``tokenizer.model``.
        seed: Seed of the corpus.
        scenes: Number of scenes whose texts are the corpus.
    """
    rng = random.Random(seed)
    corpus = ['### Human: <Img> </Img> ### Assistant: ###Human ###']
    for _ in range(scenes):
        scene = sample_scene(rng)
        task = rng.choice(grammar.TASKS)
        pair = grammar.question(task, scene, rng)
        corpus += [grammar.scene_text(scene, rng), grammar.caption(scene, rng)]
        if pair is not None:
            corpus += [*pair, wordings.reword(task, pair[0], rng)]
        corpus += wordings.small_talk(rng)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        model_type='bpe',
        vocab_size=model_config()['decoder']['arch']['vocab_size'],
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


def _learning_rate(step: int, steps: int, peak: float) -> float:
    """Return the rate: warm-up over 100 steps, then a cosine to 2 %."""
    if step < 100:
        return peak * (step + 1) / 100
    progress = (step - 100) / max(1, steps - 100)
    return peak * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))


def pretrain_llm(
    tokenizer_model: Path,
    steps: int,
    tokens: int = 2048,
    seed: int = 0,
    captions_only: bool = False,
    log: Callable[[str], object] = print,
) -> LlamaForCausalLM:
    """Pretrain the language model on text only.

    First it learns to find words in lists (see :class:`TextDocuments`), then
    scenes, which are given as words. The embeddings of a scene's words are
    scaled, and get random noise, so that the model understands the
    approximate embeddings that the projection will produce later. All
    embeddings begin with the size of a new projection's outputs: with
    transformers' 0.02, outputs are 60 times larger than words, and the
    answers without training data for them (poems, places) are worse.

    The matrices are trained with Muon, which needs about half as many steps
    here as AdamW.

    Args:
        tokenizer_model: The SentencePiece model.
        steps: Optimizer steps.
        tokens: Maximum number of tokens of a step.
        seed: Seed of weights, documents and noise.
        captions_only: Train on web captions of scenes, without a chat.
        log: Called with one line of progress every 100 steps.

    Returns:
        The model in fp32.

    Raises:
        ImportError: torch is older than 2.9 and has no Muon.
    """
    torch.manual_seed(seed)
    tokenizer = sentencepiece.SentencePieceProcessor(
        model_file=str(tokenizer_model)
    )
    model = LlamaForCausalLM(_llm_config())
    embeddings = model.model.embed_tokens
    nn.init.normal_(embeddings.weight, std=EMBEDDING_STD)
    rng = random.Random(seed)
    documents = TextDocuments(tokenizer, rng, captions_only)
    stream = batches(documents.draw, tokens, rng)
    optimizers = _optimizers(model)
    for step in range(steps):
        in_lists = step < LIST_SHARE_OF_STEPS * steps
        documents.share_of_lists = 0.85 if in_lists else 0.05
        for optimizer, peak in optimizers:
            for group in optimizer.param_groups:
                group['lr'] = _learning_rate(step, steps, peak)
        ids, labels, scene = next(stream)
        words = embeddings(ids)
        words = torch.where(scene[..., None], _disturb(words), words)
        # right padding under causal attention needs no mask
        hidden = model.model(inputs_embeds=words).last_hidden_state
        is_target = labels[:, 1:] != -100
        logits = model.lm_head(hidden[:, :-1][is_target])
        loss = F.cross_entropy(logits, labels[:, 1:][is_target])
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, _ in optimizers:
            optimizer.step()
        if step % 100 == 99:
            log(
                f'language model step {step + 1}/{steps} '
                f'loss {loss.item():.4f}'
            )
    return model.eval()


def _disturb(words: Tensor) -> Tensor:
    """Add noise to embeddings (B, T, C), and scale them."""
    noise = torch.randn_like(words) * words.detach().std()
    amount = torch.rand(len(words), 1, 1) * MAX_NOISE
    scale = torch.empty(len(words), 1, 1).uniform_(*LOG_SCALE).exp()
    return scale * (words + amount * noise)


def _optimizers(
    model: LlamaForCausalLM,
) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the matrices of the layers, AdamW for all other weights.

    Returns:
        Each optimizer with its peak learning rate.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and name.startswith('model.layers')
        (matrices if is_matrix else others).append(parameter)
    return [
        (
            compat.muon(
                matrices,
                lr=0.0,
                weight_decay=0.02,
                adjust_lr_fn='match_rms_adamw',
            ),
            4e-3,
        ),
        (
            torch.optim.AdamW(
                others, lr=0.0, betas=(0.9, 0.98), weight_decay=0.02
            ),
            2e-3,
        ),
    ]


def pretrain_vision(
    steps: int,
    batch_size: int = 64,
    seed: int = 0,
    log: Callable[[str], object] = print,
) -> tuple[EVAViT, QFormer]:
    """Pretrain vision encoder and Q-Former so that each query names a word.

    A linear classifier predicts the words and is then discarded. What it can
    predict limits how well MiniGPT-4's linear projection can align; in the
    real model BLIP-2's image-text pretraining has this role.

    Args:
        steps: Optimizer steps.
        batch_size: Number of images of a step.
        seed: Seed of weights and images.
        log: Called with one line of progress every 100 steps.

    Returns:
        Vision encoder and Q-Former in fp32.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    backbone = EVAViT(**_module_config('backbone'), frozen=False)
    neck = QFormer(**_module_config('neck'), dropout=0.0, frozen=False)
    # without distinct position embeddings nothing is learned for long
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
    classifier = nn.Linear(neck.out_channels, len(words))
    parameters = [
        *backbone.parameters(),
        *neck.parameters(),
        *classifier.parameters(),
    ]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.02)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    for step in range(steps):
        for group in optimizer.param_groups:
            group['lr'] = _learning_rate(step, steps, 1e-3)
        scenes = [sample_scene(rng) for _ in range(batch_size)]
        pixels = np.stack([np.asarray(render(s, rng)) for s in scenes])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        images = images + 4 * torch.randn_like(images)  # like JPEG artefacts
        target = torch.tensor(
            [
                [index[w] for w in grammar.query_words(scene)]
                for scene in scenes
            ]
        )
        logits = classifier(neck(backbone((images / 255 - mean) / std)))
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 100 == 99:
            accuracy = (logits.argmax(-1) == target).float().mean()
            log(
                f'vision step {step + 1}/{steps} loss {loss.item():.4f} '
                f'words named {accuracy.item():.4f}'
            )
    return backbone.eval(), neck.eval()
