# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The decoder: a Hugging Face causal LM, used through its public methods."""

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
from ..llm.families import family_difference
from ..llm.fingerprint import compare_fingerprints, compute_fingerprint
from ..llm.load import (
    build_empty,
    load_llm,
    load_tokenizer,
)
from ..llm.locate import locate_llm
from ..llm.lora import inject_lora, merge_lora
from ..registry import MODELS
from . import packed_attention
from .frozen_linear import quantise_linears
from .packed_attention import PackedLayout


@MODELS.register_module()
class LLMDecoder(nn.Module):
    """The language model, frozen unless LoRA is configured.

    Its folder is checked first; code in the folder is never run.

    Args:
        name_or_path: Folder or hub repository of a causal LM with its
            tokenizer, or ``'nano/llm'``. See :func:`locate_llm`.
        dtype: ``'auto'`` (bf16 or fp16 on a GPU; on a CPU bf16 above a
            billion parameters, else fp32) or the name of a type.
        arch: Expected keyword arguments of the LLM's Hugging Face config
            (``model_type``, ``hidden_size`` ...). A folder that differs is
            refused; on the meta device the model is built from these, without
            any file.
        quantization: Keyword arguments of ``BitsAndBytesConfig`` with
            ``load_in_8bit=True`` or ``load_in_4bit=True``; needs
            bitsandbytes and accelerate. Embeddings and output head keep
            ``dtype``, in which 4-bit layers compute; these are ``'nf4'``.
        device_map: How one process spreads the LLM over its GPUs, memory and
            disk: ``'auto'``, ``'balanced'`` ... or a dict of modules and
            devices, as accelerate takes it.
        max_memory: The most memory of each device for the LLM, e.g.
            ``{0: '10GiB', 1: '20GiB', 'cpu': '30GiB'}``.
        lora: Keyword arguments of peft's ``LoraConfig``; see
            :mod:`~minigpt4.llm.lora`.
        gradient_checkpointing: Whether to recompute the LLM's activations in
            the backward pass: slower, with less memory.
        shard: Whether each rank stores a shard of the LLM's layers (FSDP), for
            an LLM that does not fit on one GPU.
        linear_dtype: ``'int8'`` or ``'float8'`` for linear layers that
            multiply in 8 bits, forward and backward; see
            :mod:`~.frozen_linear`. None is ``dtype``, which embeddings, norms
            and output head always have.

    Methods take tensors of any device and return tensors of that device.

    Attributes:
        frozen: Whether no weight is trained.
        lora_settings: What decides on the effect of the LoRA weights, besides
            their values; None without LoRA.
        stop_ids: Ids of the end-of-text tokens that the LLM's folder names.
        sharded: Whether ranks store shards of the layers.
        has_device_map: Whether the LLM is spread over devices.
        has_fixed_device: Whether ``to`` leaves it where it is: quantised or
            spread over devices.
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
        linear_dtype: str | None = None,
    ) -> None:
        super().__init__()
        packed_attention.register()
        self.name_or_path = name_or_path
        self.tokenizer: Any
        self.has_fixed_device = False
        self.has_device_map = device_map is not None
        if compat.builds_on_meta():
            self.llm = build_empty(arch, dtype)
            self.tokenizer = None
            self.stop_ids: tuple[int, ...] = ()
        else:
            where = locate_llm(name_or_path)
            print_log(f'LLM: {where} (for {name_or_path})', logger='current')
            self.tokenizer = load_tokenizer(name_or_path)
            self.llm = load_llm(
                where, arch, dtype, quantization, device_map, max_memory
            )
            rows = self.llm.get_input_embeddings().weight.shape[0]
            eos = self.llm.generation_config.eos_token_id or []
            self.stop_ids = tuple(i for i in eos if 0 <= i < rows)
            _check_begin_token(self.tokenizer, self.llm, where)
            self.has_fixed_device = (
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
        if linear_dtype is not None:
            self._quantise_linears(
                linear_dtype,
                lora=lora is not None,
                quantization=quantization is not None,
                device_map=self.has_device_map,
                shard=shard,
            )
        self.frozen = lora is None
        self.lora_settings: dict[str, Any] | None = None
        if lora is not None:
            self.lora_settings = inject_lora(self.llm, lora)
        if gradient_checkpointing:
            self.llm.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs=dict(use_reentrant=False)
            )
        self.gradient_checkpointing = gradient_checkpointing
        self.sharded = shard
        self._is_known_family = family_difference(self.llm.config) is None
        self._attends_to_all = compat.attends_to_all(self.llm.config)
        # K and V of each layer, by the token ids of the prefix
        self._prefix_kv: dict[tuple[int, ...], list] = {}
        if shard and not compat.builds_on_meta():
            self._shard()
        self._compiled: list[tuple[nn.Module, Callable]] = []

    def _quantise_linears(self, linear_dtype: str, **others: bool) -> None:
        """Let the LLM's linear layers multiply in 8 bits.

        Args:
            linear_dtype: As for :func:`~.frozen_linear.quantise_linears`.
            others: Settings with which this is not possible, and whether each
                is in use.

        Raises:
            ValueError: One is, or the type is unknown.
        """
        others['quantization'] |= (
            getattr(self.llm, 'hf_quantizer', None) is not None
        )
        used = next((name for name, is_used in others.items() if is_used), '')
        if used:
            raise ValueError(
                f'decoder.linear_dtype={linear_dtype!r} is for an LLM that is '
                'frozen, on one device and not quantised, but '
                f'{self.name_or_path} has decoder.{used}; omit one of these '
                'settings.'
            )
        quantise_linears(
            self.llm,
            linear_dtype,
            'decoder',
            skip=self.llm.get_output_embeddings(),
        )

    def _shard(self) -> None:
        """Shard each layer over the ranks, on their devices.

        Layer by layer, so that no GPU ever holds the complete LLM; embeddings
        and output head are not sharded.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        if self.has_fixed_device:
            raise ValueError(
                f'decoder.shard=True cannot shard {self.name_or_path}, '
                'which is quantised or has a device_map; omit one of these '
                'settings.'
            )
        if not dist.is_distributed():
            raise ValueError(
                'decoder.shard=True shards the LLM over several processes, '
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
        """Number of tokens in the LLM's vocabulary."""
        return self.llm.config.vocab_size

    def train(self, mode: bool = True) -> 'LLMDecoder':
        """Set the mode; a frozen LLM stays in eval mode."""
        if not self.frozen or self.gradient_checkpointing:
            # transformers recomputes activations in train mode only; a
            # frozen LLaMA has no dropout that train mode would enable
            super().train(mode)
        return self

    def _apply(
        self, fn: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> 'LLMDecoder':
        """Implement ``to``, ``cuda`` and ``half`` of the decoder's parents."""
        if self.has_fixed_device:
            return self
        return super()._apply(fn, recurse)

    def merge_lora(self) -> bool:
        """Add LoRA to the weights of the LLM, for inference.

        The LLM then has plain linear layers, which run in the fast paths;
        LoRA is no longer trained or saved. A quantised LLM is not changed.

        Returns:
            Whether LoRA was merged.
        """
        if self.lora_settings is None or self.has_fixed_device:
            return False
        merge_lora(self.llm)
        self.lora_settings = None
        self.frozen = True
        self.llm.requires_grad_(False)
        self.llm.eval()
        return True

    def to_llm_device(self, tensor: Tensor) -> Tensor:
        """Move a tensor to the device of the LLM's first layer."""
        device = self.llm.device
        # offloaded layers are on the meta device and move their inputs
        return tensor if device.type == 'meta' else tensor.to(device)

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        """``(...)`` int64 token ids to ``(..., hidden_size)`` embeddings."""
        table = self.llm.get_input_embeddings()
        return table(self.to_llm_device(token_ids)).to(token_ids.device)

    @property
    def supports_shared_prefix(self) -> bool:
        """Whether K and V of a fixed prefix can be stored for all steps.

        Not where they change (LoRA), where only one rank may need them
        (sharded layers), or without packed attention.
        """
        return (
            self.supports_packed_attention and self.frozen and not self.sharded
        )

    @property
    def supports_packs(self) -> bool:
        """Whether several sequences may be in one row of a batch.

        Not where layers hide tokens, e.g. by a sliding window: transformers
        would replace their mask by the mask of the pack.
        """
        return self._attends_to_all

    @property
    def supports_packed_attention(self) -> bool:
        """Whether packed sequences are unpacked for attention.

        Only for the families of :mod:`minigpt4.llm.families`. Not where
        layers run again in the backward pass, when the attention function is
        not set any more, nor on several devices.
        """
        return (
            not self.gradient_checkpointing
            and not self.has_device_map
            and self._is_known_family
        )

    def hidden_states(
        self,
        embeddings: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor,
        prefix: Sequence[int] = (),
        layout: PackedLayout | None = None,
        output_positions: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states ``(B, T, hidden_size)``, after the final norm.

        Args:
            embeddings: ``(B, T, hidden_size)``.
            attention_mask: ``(B, T)``, 0 at pads; or ``(B, 1, T, T)`` bool,
                the positions that each one attends to; not used with
                ``layout``.
            position_ids: ``(B, T)``.
            prefix: With ``layout``: token ids before every sequence, whose K
                and V are stored.
            layout: Packed sequences, each of which attends to itself.
            output_positions: With ``layout``: indices in the flattened
                ``B * T`` whose states are needed; others are undefined.
        """
        config = self.llm.config
        implementation = config._attn_implementation
        hooks: list = []
        if prefix and layout is None:
            raise ValueError(
                f'a stored prefix of {len(prefix)} tokens without packed '
                'attention, which alone attends to it; collate with the '
                "model's own collator."
            )
        if layout is not None:
            layout = replace(layout, prefix_kv=self._compute_prefix(prefix))
            config._attn_implementation = packed_attention.NAME
            if output_positions is not None:
                last = self.llm.base_model.layers[-1]
                hooks = _restrict_to_positions(
                    last.mlp, output_positions, embeddings.shape
                )
        try:
            with self._layers_compiled():
                hidden = self.llm.base_model(
                    inputs_embeds=self.to_llm_device(embeddings),
                    attention_mask=None
                    if attention_mask is None
                    else self.to_llm_device(attention_mask),
                    position_ids=self.to_llm_device(position_ids),
                    use_cache=False,
                    **({} if layout is None else dict(layout=layout)),
                ).last_hidden_state
        finally:
            config._attn_implementation = implementation
            for hook in hooks:
                hook.remove()
        return hidden.to(embeddings.device)

    def compile_layers(self, backend: str = 'inductor') -> None:
        """Let :meth:`hidden_states` run compiled layers.

        All layers share one compiled code. The last layer, which computes
        some positions only, is not compiled, and neither is generation, whose
        shapes change with each token.

        Raises:
            ValueError: The LLM is quantised, spread over devices or sharded.
        """
        if self.has_fixed_device or self.sharded:
            raise ValueError(
                f'{self.name_or_path} is quantised, spread over devices or '
                'sharded over ranks, with which compiled layers have not '
                'been tried; omit model.compile.'
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
    def _compute_prefix(self, prefix: Sequence[int]) -> list:
        """Compute K and V of a prefix in each layer, once."""
        from transformers import DynamicCache

        key = tuple(prefix)
        if not key:
            return []
        if key not in self._prefix_kv:
            device = self.llm.get_input_embeddings().weight.device
            cache = self.llm.base_model(
                input_ids=torch.tensor([key], device=device),
                past_key_values=DynamicCache(),
                use_cache=True,
            ).past_key_values
            self._prefix_kv[key] = compat.keys_and_values(cache)
        return self._prefix_kv[key]

    def logits(self, hidden: Tensor) -> Tensor:
        """``(..., hidden_size)`` to ``(..., vocab_size)``."""
        output = self.llm.get_output_embeddings()
        device = output.weight.device
        inputs = hidden if device.type == 'meta' else hidden.to(device)
        return output(inputs).to(hidden.device)

    def token_losses(
        self, hidden: Tensor, target_positions: Tensor, targets: Tensor
    ) -> Tensor:
        """Cross-entropy of each supervised token.

        Logits are computed at the supervised positions only.

        Args:
            hidden: ``(B, T, hidden_size)``.
            target_positions: ``(M,)`` indices in the flattened ``B * T``.
            targets: ``(M,)`` token ids.

        Returns:
            ``(M,)`` fp32, nats.
        """
        states = hidden.flatten(0, 1).index_select(0, target_positions)
        return F.cross_entropy(
            self.logits(states).float(), targets, reduction='none'
        )

    def fingerprint(self) -> dict[str, Any]:
        """Compute its fingerprint; see :mod:`minigpt4.llm.fingerprint`."""
        return compute_fingerprint(
            self.tokenizer, self.embed_tokens, self.llm.config
        )

    def check_fingerprint(self, expected: dict[str, Any]) -> None:
        """Refuse a projection that was trained with another LLM.

        Args:
            expected: The fingerprint in the checkpoint.

        Raises:
            ValueError: It differs; see :func:`compare_fingerprints`.
        """
        compare_fingerprints(self.fingerprint(), expected, self.name_or_path)


def _check_begin_token(tokenizer: Any, llm: Any, where: str) -> None:
    """Refuse a tokenizer whose BOS token has no embedding in the LLM.

    Raises:
        ValueError: There is no such embedding.
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


def _restrict_to_positions(
    mlp: nn.Module, positions: Tensor, shape: tuple[int, ...]
) -> list:
    """Let the last layer's feed-forward compute some positions only.

    No later layer reads the others.

    Args:
        mlp: The feed-forward.
        positions: Indices in the flattened ``B * T``.
        shape: ``(B, T, hidden_size)``.

    Returns:
        The handles of the hooks, for removal.
    """

    def select(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        return inputs[0].flatten(0, 1).index_select(0, positions)

    def scatter(_: nn.Module, inputs: tuple[Tensor], out: Tensor) -> Tensor:
        empty = out.new_zeros(shape).flatten(0, 1)
        return empty.index_copy(0, positions, out).view(shape)

    return [
        mlp.register_forward_pre_hook(select),
        mlp.register_forward_hook(scatter),
    ]
