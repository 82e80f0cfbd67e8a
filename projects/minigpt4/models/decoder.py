# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The decoder: any Hugging Face causal LM, through its public interface."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from mmengine.device import get_device
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn import functional as F

from .. import compat
from ..registry import MODELS
from .row_attention import NAME as ROWS_ATTENTION
from .row_attention import RowPlaces
from .weights import local_path, torch_dtype

LLM_VARIABLE = 'MINIGPT4_LLM'
# rows of the embedding table that the fingerprint looks at
_FINGERPRINT_TEXT = '###Human: Describe this image in detail. ###Assistant: '
_FINGERPRINT_WIDTH = 16
_BF16_STEP = 2.0**-7


def locate_llm(name_or_path: str) -> str:
    """Where the LLM lies: a folder, or a hub's repository.

    A folder that exists is taken as it is. For the name of a hub's
    repository the environment variable ``MINIGPT4_LLM`` is used instead
    where it is set.

    Raises:
        FileNotFoundError: A placeholder or a path that does not exist.
    """
    path = local_path(name_or_path, 'LLM')
    if path is None and os.environ.get(LLM_VARIABLE):
        path = local_path(
            os.environ[LLM_VARIABLE], f'{LLM_VARIABLE}, the LLM,'
        )
        if path is None:
            return os.environ[LLM_VARIABLE]
    return name_or_path if path is None else str(path)


def load_tokenizer(name_or_path: str):
    """The LLM's tokenizer.

    Raises:
        FileNotFoundError: There is no such LLM, or it cannot be fetched.
    """
    from transformers import AutoTokenizer

    where = locate_llm(name_or_path)
    try:
        return AutoTokenizer.from_pretrained(where)
    except OSError as error:
        raise _not_fetched(where) from error


def _not_fetched(where: str) -> FileNotFoundError:
    return FileNotFoundError(
        f'the LLM {where!r} is no local folder and could not be fetched from '
        f'a hub; download it and name its folder in {LLM_VARIABLE} or in '
        'decoder.name_or_path.'
    )


@MODELS.register_module()
class LLMDecoder(nn.Module):
    """The language model that speaks, frozen unless LoRA is asked for.

    Args:
        name_or_path: Folder or hub repository of a causal LM with its
            tokenizer, or ``'nano/llm'``. See :func:`locate_llm`.
        dtype: ``'auto'`` (bf16 or fp16 on a GPU; on a CPU bf16 above a
            billion parameters, else fp32) or the name of a type.
        arch: What the config expects of the LLM, as keyword arguments of its
            Hugging Face config (``model_type``, ``hidden_size`` ...). A
            folder that differs is refused; on the meta device the model is
            built from it without any file.
        quantization: Keyword arguments of ``BitsAndBytesConfig``, e.g.
            ``dict(load_in_4bit=True)``.
        lora: Keyword arguments of peft's ``LoraConfig``.
        gradient_checkpointing: Whether to recompute the LLM's activations in
            the backward pass: slower, with less memory.
        shard: Whether each rank holds a share of the LLM's layers (FSDP), for
            an LLM that does not fit on one GPU.
    """

    def __init__(
        self,
        name_or_path: str,
        dtype: str = 'auto',
        arch: dict | None = None,
        quantization: dict | None = None,
        lora: dict | None = None,
        gradient_checkpointing: bool = False,
        shard: bool = False,
    ) -> None:
        super().__init__()
        self.name_or_path = name_or_path
        self.tokenizer: Any
        if torch.get_default_device().type == 'meta':
            self.llm = self._build_empty(arch, dtype)
            self.tokenizer = None
        else:
            where = locate_llm(name_or_path)
            print_log(f'LLM: {where} (for {name_or_path})', logger='current')
            self.tokenizer = load_tokenizer(name_or_path)
            self.llm = self._load(where, arch, dtype, quantization)
        for setting in (
            'final_logit_softcapping',
            'logit_scale',
            'logits_scaling',
        ):
            if getattr(self.llm.config, setting, None) not in (None, 1, 1.0):
                raise ValueError(
                    f'{name_or_path} scales its logits ({setting}), which the '
                    'loss on target positions does not know; use another LLM.'
                )
        self.llm.requires_grad_(False)
        self.llm.eval()
        self.frozen = lora is None
        if lora is not None:
            from peft import LoraConfig, inject_adapter_in_model

            inject_adapter_in_model(LoraConfig(**lora), self.llm)
            for parameter in self.llm.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
        if gradient_checkpointing:
            self.llm.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs=dict(use_reentrant=False)
            )
        self.gradient_checkpointing = gradient_checkpointing
        self.sharded = shard
        # keys and values of each layer, by the text they are of
        self._prefixes: dict[tuple[int, ...], list] = {}
        if shard and torch.get_default_device().type != 'meta':
            self._shard()

    @staticmethod
    def _build_empty(arch: dict | None, dtype: str):
        from transformers import AutoConfig, AutoModelForCausalLM

        if arch is None:
            raise ValueError(
                'an LLM on the meta device has no files; give '
                'its Hugging Face config as decoder.arch.'
            )
        config = AutoConfig.for_model(**arch)
        return AutoModelForCausalLM.from_config(
            config, **compat.dtype_argument(torch_dtype(dtype))
        )

    def _load(
        self,
        where: str,
        arch: dict | None,
        dtype: str,
        quantization: dict | None,
    ):
        from transformers import (
            AutoConfig,
            AutoModelForCausalLM,
            GenerationConfig,
        )

        try:
            config = AutoConfig.from_pretrained(where)
        except OSError as error:
            raise _not_fetched(where) from error
        for key, want in (arch or {}).items():
            found = getattr(config, key, None)
            if found != want:
                raise ValueError(
                    f'the LLM in {where} has {key} {found}, but the config '
                    f'expects {want}; give the LLM that the config names, or '
                    'set decoder.arch=None together with a projection that '
                    'was trained for your LLM.'
                )
        arguments: dict = dict(attn_implementation='sdpa')
        if quantization is not None:
            from transformers import BitsAndBytesConfig

            arguments['quantization_config'] = BitsAndBytesConfig(
                **quantization
            )
        if dtype == 'auto' and not torch.cuda.is_available():
            large = (
                Path(where).is_dir()
                and sum(
                    file.stat().st_size
                    for pattern in ('*.safetensors', '*.bin')
                    for file in Path(where).glob(pattern)
                )
                > 2e9
            )
            dtype = 'bfloat16' if large else 'float32'
        load: Any = AutoModelForCausalLM.from_pretrained
        llm, report = load(
            where,
            output_loading_info=True,
            **arguments,
            **compat.dtype_argument(torch_dtype(dtype)),
        )
        missing = sorted(report['missing_keys'])
        if missing:
            raise ValueError(
                f'{where} lacks {len(missing)} tensors of the LLM, e.g. '
                f'{missing[0]}; is it a complete model (a Vicuna delta has to '
                'be merged first)?'
            )
        # the folder's own sampling settings would mix with ours
        llm.generation_config = GenerationConfig()
        return llm

    def _shard(self) -> None:
        """Leave this rank its share of each layer, on its device.

        Layer by layer, so that no GPU ever holds the whole LLM; embeddings
        and output head stay whole.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        if not dist.is_distributed():
            raise ValueError(
                'decoder.shard=True shares the LLM out to several processes, '
                'but there is one; start it with tools/dist_train.sh.'
            )
        mesh = init_device_mesh(get_device(), (dist.get_world_size(),))
        lists = [m for m in self.llm.modules() if isinstance(m, nn.ModuleList)]
        layers = max(
            lists, key=lambda m: sum(p.numel() for p in m.parameters())
        )
        for layer in layers:
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)

    @property
    def hidden_size(self) -> int:
        """Width of the embeddings."""
        return self.llm.get_input_embeddings().weight.shape[1]

    @property
    def vocab_size(self) -> int:
        """Tokens that the LLM knows."""
        return self.llm.config.vocab_size

    def train(self, mode: bool = True) -> 'LLMDecoder':
        """Stay in eval mode while frozen, whatever is asked."""
        if not self.frozen or self.gradient_checkpointing:
            # transformers recomputes activations in train mode only; a
            # frozen LLaMA has no dropout that this would wake
            super().train(mode)
        return self

    def embed(self, token_ids: Tensor) -> Tensor:
        """``(...)`` int64 token ids to ``(..., hidden_size)`` embeddings."""
        return self.llm.get_input_embeddings()(token_ids)

    @property
    def can_store_prefix(self) -> bool:
        """Whether keys and values of a fixed text can be kept for all steps.

        Not where they would change (LoRA), be recomputed (checkpointing) or
        be asked for by one rank alone (shared layers).
        """
        return (
            self.frozen
            and not self.gradient_checkpointing
            and not self.sharded
            and self.llm.config.model_type == 'llama'
        )

    @property
    def attends_to_rows(self) -> bool:
        """Whether rows of a line can be taken apart for attention alone.

        Not where layers run again in the backward pass: the choice of the
        attention would not hold until then.
        """
        return (
            not self.gradient_checkpointing
            and self.llm.config.model_type == 'llama'
        )

    def hidden_states(
        self,
        embeddings: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor,
        prefix: Sequence[int] = (),
        rows: RowPlaces | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states ``(B, T, hidden_size)``, normed.

        Args:
            embeddings: ``(B, T, hidden_size)``.
            attention_mask: ``(B, T)``, 0 at pads; or ``(B, 1, T, P + T)``
                bool, what each place may look at; not used with ``rows``.
            position_ids: ``(B, T)``.
            prefix: ``P`` token ids in front of every row, whose keys and
                values are stored.
            rows: Where the rows of the lines are; each sees itself alone.
            wanted: With ``rows``: places in the flattened ``B * T`` whose
                states are asked for; those of others mean nothing.
        """
        cache = self._prefix_cache(tuple(prefix), len(embeddings))
        config = self.llm.config
        usual = config._attn_implementation
        hooks: list = []
        if rows is not None:
            config._attn_implementation = ROWS_ATTENTION
            if wanted is not None:
                last = self.llm.base_model.layers[-1]
                hooks = _only_at(last.mlp, wanted, embeddings.shape)
        try:
            return self.llm.base_model(
                inputs_embeds=embeddings,
                attention_mask=attention_mask if rows is None else None,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=cache is not None,
                **({} if rows is None else dict(rows=rows)),
            ).last_hidden_state
        finally:
            config._attn_implementation = usual
            for hook in hooks:
                hook.remove()

    def _prefix_cache(self, prefix: tuple[int, ...], lines: int):
        """A cache that begins with the prefix, for some lines."""
        from transformers import DynamicCache

        if not prefix:
            return None
        if prefix not in self._prefixes:
            ids = torch.tensor(
                [prefix], device=self.llm.get_input_embeddings().weight.device
            )
            with torch.no_grad():
                stored = self.llm.base_model(
                    input_ids=ids,
                    past_key_values=DynamicCache(),
                    use_cache=True,
                ).past_key_values
            self._prefixes[prefix] = compat.keys_and_values(stored)
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self._prefixes[prefix]):
            shape = (lines, -1, -1, -1)
            cache.update(keys.expand(shape), values.expand(shape), layer)
        return cache

    def logits(self, hidden: Tensor) -> Tensor:
        """``(..., hidden_size)`` to ``(..., vocab_size)``."""
        return self.llm.get_output_embeddings()(hidden)

    def token_losses(
        self, hidden: Tensor, target_places: Tensor, targets: Tensor
    ) -> Tensor:
        """Cross-entropy of each supervised token, fp32.

        Logits are computed at the supervised places alone.

        Args:
            hidden: ``(B, T, hidden_size)``.
            target_places: ``(M,)`` places in the flattened ``B * T``.
            targets: ``(M,)`` token ids.

        Returns:
            ``(M,)`` fp32, nats.
        """
        rows = hidden.flatten(0, 1).index_select(0, target_places)
        return F.cross_entropy(
            self.logits(rows).float(), targets, reduction='none'
        )

    def fingerprint(self) -> dict:
        """What tells this LLM from another: sizes, and embeddings of words.

        A projection speaks to one LLM's embeddings; another Vicuna of the
        same size gives fluent nonsense without any error.
        """
        ids = self.tokenizer(
            _FINGERPRINT_TEXT, add_special_tokens=False
        ).input_ids
        weight = self.llm.get_input_embeddings().weight
        rows = weight[
            torch.tensor(ids, device=weight.device), :_FINGERPRINT_WIDTH
        ]
        return dict(
            hidden_size=self.hidden_size,
            vocab_size=self.vocab_size,
            tokens=ids,
            embeddings=[
                [round(x, 8) for x in row] for row in rows.float().tolist()
            ],
        )

    def check_fingerprint(self, theirs: dict) -> None:
        """Refuse a projection that was trained against another LLM.

        Raises:
            ValueError: Sizes, tokens or embeddings differ by more than the
                rounding of bf16.
        """
        ours = self.fingerprint()
        for key in ('hidden_size', 'vocab_size', 'tokens'):
            if ours[key] != theirs[key]:
                raise ValueError(
                    f'the checkpoint was trained against an LLM with {key} '
                    f'{theirs[key]}, but {self.name_or_path} has '
                    f'{ours[key]}; give the LLM it was trained with.'
                )
        mine, other = (torch.tensor(x['embeddings']) for x in (ours, theirs))
        far = (mine - other).abs() > _BF16_STEP * other.abs() + 1e-6
        if far.any():
            raise ValueError(
                'the checkpoint was trained against another LLM, of the same '
                f'size as {self.name_or_path} ({int(far.sum())} of '
                f'{far.numel()} compared embedding values differ); give the '
                'LLM it was trained with, or set model.check_llm=False to '
                'use it all the same.'
            )


def _only_at(mlp: nn.Module, places: Tensor, shape: tuple[int, ...]) -> list:
    """Let the last layer's feed-forward see some places alone.

    Nothing comes after it that would look at the others.
    """

    def pick(_, inputs: tuple[Tensor]) -> Tensor:
        return inputs[0].flatten(0, 1).index_select(0, places)

    def put_back(_, inputs: tuple[Tensor], out: Tensor) -> Tensor:
        empty = out.new_zeros(shape).flatten(0, 1)
        return empty.index_copy(0, places, out).view(shape)

    return [
        mlp.register_forward_pre_hook(pick),
        mlp.register_forward_hook(put_back),
    ]


def encode_fingerprint(fingerprint: dict) -> Tensor:
    """A fingerprint as a uint8 tensor of JSON, to stand in a state dict."""
    return torch.tensor(
        list(json.dumps(fingerprint).encode()), dtype=torch.uint8
    )


def decode_fingerprint(tensor: Tensor) -> dict:
    """The inverse of :func:`encode_fingerprint`."""
    return json.loads(bytes(tensor.tolist()))
