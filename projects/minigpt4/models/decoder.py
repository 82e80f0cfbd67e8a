# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The decoder: any Hugging Face causal LM, through its public interface."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from mmengine import dist
from mmengine.device import get_device
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn import functional as F

from .. import compat
from ..llm.load import (
    SPARE_ROWS,
    build_empty,
    load_llm,
    load_tokenizer,
    locate_llm,
)
from ..prompts.tokenization import encode
from ..registry import MODELS
from .row_attention import NAME as ROWS_ATTENTION
from .row_attention import Rows

# rows of the embedding table that the fingerprint looks at
_FINGERPRINT_TEXT = '###Human: Describe this image in detail. ###Assistant: '
_FINGERPRINT_WIDTH = 16
_BF16_STEP = 2.0**-7


@MODELS.register_module()
class LLMDecoder(nn.Module):
    """The language model, frozen unless LoRA is asked for.

    Its folder is checked first; code of the folder is never run.

    Args:
        name_or_path: Folder or hub repository of a causal LM with its
            tokenizer, or ``'nano/llm'``. See :func:`locate_llm`.
        dtype: ``'auto'`` (bf16 or fp16 on a GPU; on a CPU bf16 above a
            billion parameters, else fp32) or the name of a type.
        arch: What the config expects of the LLM, as keyword arguments of its
            Hugging Face config (``model_type``, ``hidden_size`` ...). A
            folder that differs is refused; on the meta device the model is
            built from it without any file.
        quantization: Keyword arguments of ``BitsAndBytesConfig`` with
            ``load_in_8bit=True`` or ``load_in_4bit=True``; needs
            bitsandbytes and accelerate. Embeddings and output head keep
            ``dtype``, in which 4-bit layers compute; these are ``'nf4'``.
        device_map: How one process spreads the LLM over its GPUs, memory and
            disk: ``'auto'``, ``'balanced'`` ... or a dict of modules and
            devices, as accelerate takes it.
        max_memory: What each device may take of it, e.g.
            ``{0: '10GiB', 1: '20GiB', 'cpu': '30GiB'}``.
        lora: Keyword arguments of peft's ``LoraConfig``.
        gradient_checkpointing: Whether to recompute the LLM's activations in
            the backward pass: slower, with less memory.
        shard: Whether each rank holds a share of the LLM's layers (FSDP), for
            an LLM that does not fit on one GPU.

    Tensors may come from any device and go back to where they came from.
    """

    def __init__(
        self,
        name_or_path: str,
        dtype: str = 'auto',
        arch: dict | None = None,
        quantization: dict | None = None,
        device_map: str | dict | None = None,
        max_memory: dict | None = None,
        lora: dict | None = None,
        gradient_checkpointing: bool = False,
        shard: bool = False,
    ) -> None:
        super().__init__()
        self.name_or_path = name_or_path
        self.tokenizer: Any
        self.placed = False
        self.spread = device_map is not None
        if torch.get_default_device().type == 'meta':
            self.llm = build_empty(arch, dtype)
            self.tokenizer = None
        else:
            where = locate_llm(name_or_path)
            print_log(f'LLM: {where} (for {name_or_path})', logger='current')
            self.tokenizer = load_tokenizer(name_or_path)
            self.llm = load_llm(
                where, arch, dtype, quantization, device_map, max_memory
            )
            _check_begin_token(self.tokenizer, self.llm, where)
            # a quantised or spread LLM stays where it was put
            self.placed = (
                device_map is not None
                or getattr(self.llm, 'hf_quantizer', None) is not None
            )
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
        self._compiled: list[tuple[nn.Module, Callable]] = []

    def _shard(self) -> None:
        """Leave this rank its share of each layer, on its device.

        Layer by layer, so that no GPU ever holds the whole LLM; embeddings
        and output head stay whole.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        if self.placed:
            raise ValueError(
                f'decoder.shard=True cannot share out {self.name_or_path}, '
                'which is quantised or has a device_map; leave one of these '
                'settings out.'
            )
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

    def _apply(self, fn, recurse: bool = True) -> 'LLMDecoder':
        """What ``to``, ``cuda``, ``half`` of any parent come down to."""
        return self if self.placed else super()._apply(fn, recurse)

    def enter(self, tensor: Tensor) -> Tensor:
        """A tensor on the device where the LLM begins."""
        device = self.llm.device
        # offloaded layers are on the meta device and fetch their inputs
        return tensor if device.type == 'meta' else tensor.to(device)

    def embed(self, token_ids: Tensor) -> Tensor:
        """``(...)`` int64 token ids to ``(..., hidden_size)`` embeddings."""
        embeddings = self.llm.get_input_embeddings()(self.enter(token_ids))
        return embeddings.to(token_ids.device)

    @property
    def can_store_prefix(self) -> bool:
        """Whether keys and values of a fixed text can be kept for all steps.

        Not where they would change (LoRA), be asked for by one rank alone
        (shared layers), or where rows are not attended to by themselves.
        """
        return self.attends_to_rows and self.frozen and not self.sharded

    @property
    def attends_to_rows(self) -> bool:
        """Whether rows of a line can be taken apart for attention alone.

        Not where layers run again in the backward pass: the choice of the
        attention would not hold until then; nor on several devices.
        """
        return (
            not self.gradient_checkpointing
            and not self.spread
            and self.llm.config.model_type == 'llama'
        )

    def hidden_states(
        self,
        embeddings: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor,
        prefix: Sequence[int] = (),
        rows: Rows | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states ``(B, T, hidden_size)``, normed.

        Args:
            embeddings: ``(B, T, hidden_size)``.
            attention_mask: ``(B, T)``, 0 at pads; or ``(B, 1, T, T)`` bool,
                what each place may look at; not used with ``rows``.
            position_ids: ``(B, T)``.
            prefix: With ``rows``: token ids in front of every row, whose
                keys and values are stored.
            rows: Where the rows of the lines are; each sees itself alone.
            wanted: With ``rows``: places in the flattened ``B * T`` whose
                states are asked for; those of others mean nothing.
        """
        config = self.llm.config
        usual = config._attn_implementation
        hooks: list = []
        if prefix and rows is None:
            raise ValueError(
                f'a stored prefix of {len(prefix)} tokens without rows; only '
                'rows that are attended to by themselves see it: collate '
                "with the model's own collator."
            )
        if rows is not None:
            rows = replace(rows, stored=self._stored(tuple(prefix)))
            config._attn_implementation = ROWS_ATTENTION
            if wanted is not None:
                last = self.llm.base_model.layers[-1]
                hooks = _only_at(last.mlp, wanted, embeddings.shape)
        try:
            with self._layers_compiled():
                hidden = self.llm.base_model(
                    inputs_embeds=self.enter(embeddings),
                    attention_mask=None
                    if attention_mask is None
                    else self.enter(attention_mask),
                    position_ids=self.enter(position_ids),
                    use_cache=False,
                    **({} if rows is None else dict(rows=rows)),
                ).last_hidden_state
        finally:
            config._attn_implementation = usual
            for hook in hooks:
                hook.remove()
        return hidden.to(embeddings.device)

    def compile_layers(self, backend: str = 'inductor') -> None:
        """Let :meth:`hidden_states` run compiled layers.

        All layers share one compiled code; the last, of which only some
        places are wanted, stays as it is. So does generation, whose shapes
        change at each token.

        Raises:
            ValueError: The LLM is quantised, spread or shared out.
        """
        if self.placed or self.sharded:
            raise ValueError(
                f'{self.name_or_path} is quantised, spread over devices or '
                'shared out to ranks, with which compiled layers have not '
                'been tried; leave model.compile out.'
            )
        self._compiled = [
            (
                layer,
                torch.compile(layer.forward, dynamic=True, backend=backend),
            )
            for layer in self.llm.base_model.layers[:-1]
        ]

    @contextmanager
    def _layers_compiled(self) -> Iterator[None]:
        for layer, forward in self._compiled:
            layer.forward = forward
        try:
            yield
        finally:
            for layer, _ in self._compiled:
                del layer.forward

    @torch.no_grad()
    def _stored(self, prefix: tuple[int, ...]) -> list:
        """Keys and values of a prefix in each layer, computed once."""
        from transformers import DynamicCache

        if not prefix:
            return []
        if prefix not in self._prefixes:
            device = self.llm.get_input_embeddings().weight.device
            cache = self.llm.base_model(
                input_ids=torch.tensor([prefix], device=device),
                past_key_values=DynamicCache(),
                use_cache=True,
            ).past_key_values
            self._prefixes[prefix] = compat.keys_and_values(cache)
        return self._prefixes[prefix]

    def logits(self, hidden: Tensor) -> Tensor:
        """``(..., hidden_size)`` to ``(..., vocab_size)``."""
        output = self.llm.get_output_embeddings()
        device = output.weight.device
        inputs = hidden if device.type == 'meta' else hidden.to(device)
        return output(inputs).to(hidden.device)

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

    @torch.no_grad()
    def fingerprint(self) -> dict:
        """What tells this LLM from another: sizes, and embeddings of words.

        A projection speaks to one LLM's embeddings; another Vicuna of the
        same size gives fluent nonsense without any error.
        """
        ids = encode(self.tokenizer, _FINGERPRINT_TEXT)
        rows = self.embed(torch.tensor(ids))[:, :_FINGERPRINT_WIDTH]
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

        A vocabulary of up to ``SPARE_ROWS`` more or fewer rows is the same
        LLM: Vicuna v0 has 32,000 rows, or 32,001 with a row for ``[PAD]``.

        Raises:
            ValueError: Sizes, tokens or embeddings differ by more than the
                rounding of bf16.
        """
        ours = self.fingerprint()
        if ours['hidden_size'] != theirs['hidden_size']:
            raise ValueError(
                'the checkpoint was trained against an LLM of hidden_size '
                f'{theirs["hidden_size"]}, but {self.name_or_path} has '
                f'{ours["hidden_size"]}, so the projection does not fit it '
                'whatever is set; give the LLM it was trained with.'
            )
        override = (
            'give the LLM it was trained with, or set model.check_llm=False '
            'to use it all the same.'
        )
        if abs(ours['vocab_size'] - theirs['vocab_size']) > SPARE_ROWS:
            raise ValueError(
                'the checkpoint was trained against an LLM of vocab_size '
                f'{theirs["vocab_size"]}, but {self.name_or_path} has '
                f'{ours["vocab_size"]}; {override}'
            )
        if ours['tokens'] != theirs['tokens']:
            raise ValueError(
                'the checkpoint was trained against an LLM whose tokenizer '
                f'spells {_FINGERPRINT_TEXT!r} as {theirs["tokens"]}, but '
                f'that of {self.name_or_path} as {ours["tokens"]}; {override}'
            )
        mine, other = (torch.tensor(x['embeddings']) for x in (ours, theirs))
        far = (mine - other).abs() > _BF16_STEP * other.abs() + 1e-6
        if far.any():
            raise ValueError(
                'the checkpoint was trained against another LLM, of the same '
                f'size as {self.name_or_path} but of another version '
                f'({int(far.sum())} of {far.numel()} compared embedding '
                f'values differ); {override}'
            )


def _check_begin_token(tokenizer: Any, llm: Any, where: str) -> None:
    """Refuse a tokenizer whose begin token the LLM has no row for.

    Raises:
        ValueError: There is no row.
    """
    rows = llm.get_input_embeddings().weight.shape[0]
    token_id = tokenizer.bos_token_id
    if token_id is not None and token_id >= rows:
        raise ValueError(
            f'the tokenizer in {where} has the bos_token '
            f'{tokenizer.bos_token!r} as number {token_id}, but the LLM has '
            f'{rows} rows; name one of its own as bos_token in '
            'tokenizer_config.json.'
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
