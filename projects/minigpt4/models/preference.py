# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Training on pairs of answers, after stage 2: the losses of a batch.

The reference model of DPO is the model that the training starts from. Only
the trained weights differ from it, so these are copied (12.6 MB for 7B), and
the log-probabilities under the reference are computed in the same step with
the copies in place of the trained weights. This needs no second LLM. Computing
them once in advance would save that forward pass, but they would have to be
stored for each pair and each question that may be drawn for it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .packing import MultimodalInputs
from .preference_loss import (
    answer_scores,
    preference_losses,
    reward_margins,
)


class PreferenceTraining:
    """Settings of DPO and its reference weights.

    Args:
        beta: Weight of the distance to the reference model, above 0. A lower
            one allows larger changes.
        label_smoothing: Assumed probability that a pair is labelled the wrong
            way round, from 0 to below 0.5.
        normalize_length: Whether the log-probability of an answer is divided
            by its number of tokens, so that long answers do not count more;
            a larger ``beta`` fits then.

    Attributes:
        reference: Copies of the trained weights of the reference model by
            name; None before :meth:`set_reference`.

    Raises:
        ValueError: A setting is out of range.

    Source: Rafailov et al. 2023, "Direct Preference Optimization"
    (arXiv 2305.18290); its ``beta`` is 0.1.
    """

    # means over pairs, which a step returns
    names = ('loss', 'reward_margin', 'reward_accuracy')

    def __init__(
        self,
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        normalize_length: bool = False,
    ) -> None:
        if not (_is_number(beta) and 0 < beta < float('inf')):
            raise ValueError(
                f'model.preference.beta is {beta!r}; expected a number above '
                '0, 0.1 in the paper.'
            )
        if not (_is_number(label_smoothing) and 0 <= label_smoothing < 0.5):
            raise ValueError(
                f'model.preference.label_smoothing is {label_smoothing!r}; '
                'expected a number from 0 to below 0.5.'
            )
        self.beta = beta
        self.label_smoothing = label_smoothing
        self.normalize_length = normalize_length
        self.reference: dict[str, Tensor] | None = None

    def set_reference(
        self, model: nn.Module, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        """Set the reference weights, as copies.

        Args:
            model: The model.
            weights: The weights by name; None for the present ones of the
                model.

        Raises:
            ValueError: Names or shapes are not those of the trained weights.
        """
        trained = {
            n: p.detach()
            for n, p in model.named_parameters()
            if p.requires_grad
        }
        found = trained if weights is None else dict(weights)
        shapes = {n: tuple(t.shape) for n, t in trained.items()}
        if {n: tuple(t.shape) for n, t in found.items()} != shapes:
            raise ValueError(
                f'the reference weights are {", ".join(found) or "missing"}; '
                f'expected {", ".join(trained)}, with the shapes of the '
                'model; resume with the config of the run.'
            )
        self.reference = {
            name: found[name].to(tensor, copy=True)
            for name, tensor in trained.items()
        }

    def losses(
        self,
        model: nn.Module,
        images: Tensor | None,
        inputs: MultimodalInputs,
    ) -> dict[str, Tensor]:
        """Means over the pairs of a batch.

        Args:
            model: The model.
            images: Of all pairs, as for :meth:`MiniGPT4.encode_images`.
            inputs: ``2 P`` sequences: those of the chosen answers, then in
                the same order those of the rejected answers.

        Returns:
            ``loss``; ``reward_margin``, see :func:`reward_margins`;
            ``reward_accuracy``, the share of pairs with a margin above 0.

        Raises:
            ValueError: There is no reference.
        """
        scores, reference = self.scores(model, images, inputs)
        margins = reward_margins(scores, reference, self.beta)
        losses = preference_losses(margins, self.label_smoothing)
        means = (losses, margins.detach(), (margins > 0).float())
        return dict(
            zip(self.names, (mean.mean() for mean in means), strict=True)
        )

    def scores(
        self,
        model: nn.Module,
        images: Tensor | None,
        inputs: MultimodalInputs,
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the answers, of the model and the reference.

        Args:
            model: As for :meth:`losses`.
            images: As for :meth:`losses`.
            inputs: As for :meth:`losses`.

        Returns:
            Twice ``(2, P)`` nats, chosen and rejected; the second has no
            gradient.

        Raises:
            ValueError: There is no reference.
        """
        if self.reference is None:
            raise ValueError(
                'the preference training has no reference weights; expected '
                'the hook ReferenceHook in default_hooks, which sets them.'
            )
        scorer = _Scorer(model, self.normalize_length)
        # image features are the same under both models unless they are
        # trained
        queries = scorer.encode(images)
        with torch.no_grad():
            reference = functional_call(
                scorer,
                {f'model.{n}': t for n, t in self.reference.items()},
                (images, inputs, queries),
            )
        scores = scorer(images, inputs, queries)
        return scores.view(2, -1), reference.view(2, -1)


class _Scorer(nn.Module):
    """Log-probabilities of answers, as a module for ``functional_call``."""

    def __init__(self, model: Any, normalize_length: bool) -> None:
        super().__init__()
        self.model = model
        self.normalize_length = normalize_length

    def encode(self, images: Tensor | None) -> Tensor | None:
        """Features of the images; None where they are trained."""
        trained = any(
            parameter.requires_grad
            for module in (self.model.backbone, self.model.neck)
            if module is not None
            for parameter in module.parameters()
        )
        if images is None or trained:
            return None
        return self.model.encode_images(images)

    def forward(
        self,
        images: Tensor | None,
        inputs: MultimodalInputs,
        queries: Tensor | None,
    ) -> Tensor:
        """Return ``(2 P,)``; see :meth:`PreferenceTraining.losses`."""
        image_tokens = None
        if images is not None:
            if queries is None:
                queries = self.model.encode_images(images)
            image_tokens = self.model.head(queries)
            # of the chosen and of the rejected sequences
            image_tokens = torch.cat([image_tokens, image_tokens])
        losses = self.model.token_losses(None, inputs, image_tokens)
        return answer_scores(
            losses, inputs.target_counts, self.normalize_length
        )


def count_pairs(inputs: MultimodalInputs) -> int:
    """Count the pairs of a piece, the unit of the loss."""
    return len(inputs.target_counts) // 2


def disable_dropout(model: nn.Module) -> None:
    """Set the dropout of a model to 0.

    With it, reference and trained model would differ before the first step.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, 'dropout', None), float):
            setattr(module, 'dropout', 0.0)  # noqa: B010


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
