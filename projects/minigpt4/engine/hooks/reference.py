# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Set, save and restore the reference weights of preference training."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...registry import HOOKS
from ...weights.state_dicts import as_weight
from ..ranks import unwrapped_model

_ENTRY = 'reference'  # of a checkpoint


@HOOKS.register_module()
class ReferenceHook(Hook):
    """Keep the weights that the run started from as the reference.

    They are those of ``load_from``. Each checkpoint contains them, so that a
    resumed run has the same reference.
    """

    def before_train(self, runner: Runner) -> None:
        """Copy the weights, unless a checkpoint had them.

        Raises:
            ValueError: The model has no ``preference``.
        """
        preference = self._preference(runner)
        if preference.reference is None:
            preference.set_reference(unwrapped_model(runner))

    def before_save_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Add the reference weights to a checkpoint."""
        weights = self._preference(runner).reference or {}
        checkpoint[_ENTRY] = {n: t.cpu() for n, t in weights.items()}

    def after_load_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the weights if the run is resumed, not with ``load_from``.

        Raises:
            ValueError: The checkpoint does not contain them.
        """
        if not runner._resume:
            return
        entry = checkpoint.get(_ENTRY)
        if not isinstance(entry, dict):
            raise ValueError(
                'it has no reference weights, so it is of no preference '
                'training; start a new run from it with load_from.'
            )
        weights = {
            str(name): as_weight(str(name), value, 'the reference')
            for name, value in entry.items()
        }
        self._preference(runner).set_reference(
            unwrapped_model(runner), weights
        )

    def _preference(self, runner: Runner) -> Any:
        preference = unwrapped_model(runner).preference
        if preference is None:
            raise ValueError(
                'ReferenceHook is for preference training, but the model has '
                'no model.preference; set it, or remove the hook.'
            )
        return preference
