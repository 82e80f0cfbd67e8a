# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Names of release 0.1 that still work for one release, with a warning.

Old work dirs, configs and user code name modules by their paths in 0.1. The
table maps each old module to its new one; importing the old name gives an
alias of the new module and raises a :class:`DeprecationWarning`.
"""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_PACKAGE = __name__.rpartition('.')[0]

# old module: new module, both relative to the package
MOVED_MODULES = {
    'models.row_attention': 'models.packed_attention',
    'convert.files': 'convert.convert_files',
    'nano.files': 'nano.write_dataset',
    'engine.features': 'engine.cache_features',
    'engine.checkpoints': 'engine.resume_checks',
    'engine.report': 'engine.rank_errors',
    'datasets.records': 'datasets.parse_records',
    'atomic': 'utils.atomic',
    'convert.fingerprint': 'llm.fingerprint',
    'convert.huggingface': 'convert.huggingface_export',
    'convert.huggingface_folder': 'weights.hf_folder_files',
    'datasets.fault_log': 'datasets.skipped_samples',
    'datasets.image_files': 'datasets.image_folder',
    'datasets.image_formats': 'images.unreadable',
    'datasets.image_metadata': 'images.metadata',
    'datasets.image_values': 'images.rgb',
    'datasets.images': 'images.read',
    'datasets.tar_members': 'datasets.tar_reader',
    'download': 'weights.download',
    'encoding': 'prompts.tokenization',
    'engine.picture': 'images.captioned_figure',
    'errors': 'utils.errors',
    'folder_code': 'weights.hf_folder_safety',
    'hub': 'weights.model_hub',
    'inference.caption': 'captioning.inferencer',
    'inference.chat': 'chat.session',
    'inference.chat_prompt': 'chat.prompt',
    'inference.folder': 'captioning',
    'inference.folder.batch': 'captioning.batch',
    'inference.folder.gallery': 'captioning.gallery',
    'inference.folder.lists': 'captioning.image_lists',
    'inference.folder.rows': 'captioning.results',
    'inference.folder.run': 'captioning.run',
    'inference.folder.sources': 'captioning.image_sources',
    'inference.folder.spreadsheet': 'captioning.csv_escaping',
    'inference.folder.table': 'captioning.results',
    'inference.saved_chat': 'chat.saved_chat',
    'inference.server': 'serving.http',
    'inference.server.answer_events': 'serving.http.answer_events',
    'inference.server.api': 'serving.http.api',
    'inference.server.chat_messages': 'serving.http.messages',
    'inference.server.chat_request': 'serving.http.parse_request',
    'inference.server.completions': 'serving.http.completions',
    'inference.server.connections': 'serving.http.connections',
    'inference.server.errors': 'serving.http.errors',
    'inference.server.hosts': 'serving.http.hosts',
    'inference.server.http_server': 'serving.http.http_server',
    'inference.server.image_fetch': 'images.fetch',
    'inference.server.image_sources': 'images.request_images',
    'inference.server.logs': 'serving.http.logs',
    'inference.server.metrics': 'serving.http.metrics',
    'inference.server.request_values': 'serving.http.json_values',
    'inference.server.resolver': 'images.host_lookup',
    'inference.server.serve': 'serving.http.serve',
    'inference.server.threads': 'utils.threads',
    'inference.terminal': 'terminal',
    'inference.terminal.answer_view': 'terminal.answer_view',
    'inference.terminal.commands': 'terminal.commands',
    'inference.terminal.talk': 'terminal.run',
    'inference.terminal.typed_images': 'terminal.typed_images',
    'inference.web': 'serving.web',
    'inference.web.actions': 'serving.web.actions',
    'inference.web.guard': 'serving.web.guard',
    'inference.web.page': 'serving.web.page',
    'inference.web.uploads': 'serving.web.uploads',
    'inference.web.visit': 'serving.web.web_session',
    'inference.worker': 'generation.worker',
    'llm_folder': 'weights.check_llm_folder',
    'locks': 'utils.locks',
    'models.checkpoint_files': 'weights.checkpoint_files',
    'models.checksum': 'weights.checksum',
    'models.engine': 'generation.engine',
    'models.generation': 'generation.request',
    'models.layouts': 'weights.layouts',
    'models.llama_pass': 'generation.fast_decoder',
    'models.llama_tokenizer': 'llm.llama_tokenizer',
    'models.llm': 'llm.load',
    'models.multimodal_inputs': 'models.collator',
    'models.pasts': 'generation.prefix_cache',
    'models.ranking': 'generation.ranking',
    'models.reader': 'generation.model_runner',
    'models.sampling': 'generation.sampling_params',
    'models.slot_cache': 'generation.kv_cache',
    'models.state_dicts': 'weights.state_dicts',
    'models.tensor_files': 'weights.read',
    'models.tensor_writers': 'weights.write',
    'models.text_stream': 'generation.detokenizer',
    'models.tokenizer_files': 'llm.tokenizer_files',
    'models.transformers_loop': 'generation.hf_generate',
    'models.weights': 'weights.load_frozen',
    'regular_files': 'utils.regular_files',
    'signals': 'utils.signals',
    'texts': 'prompts.text_validation',
    'time_limit': 'utils.time_limit',
    'transfer': 'weights.http_download',
    'wrong_files': 'utils.file_types',
}
# a package of 0.1 that has no successor of its own
REMOVED_PACKAGES = ('inference',)


def warn_renamed(
    old: str,
    new: str,
    stacklevel: int = 3,
    category: type[Warning] = DeprecationWarning,
) -> None:
    """Warn that a public name has changed.

    Args:
        old: The old name.
        new: The new name.
        stacklevel: As for ``warnings.warn``.
        category: ``FutureWarning`` for names in configs: Python shows it to
            every user, a ``DeprecationWarning`` only to those who import.
    """
    warnings.warn(
        f'{old} is deprecated and will be removed in 0.3; use {new}.',
        category,
        stacklevel=stacklevel,
    )


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` that knows the old names of its members.

    Args:
        module: ``__name__`` of the module.
        names: Old name: new name in the same module.
    """

    def __getattr__(name: str) -> Any:
        if name in names:
            warn_renamed(f'{module}.{name}', f'{module}.{names[name]}')
            return getattr(sys.modules[module], names[name])
        raise AttributeError(f'module {module!r} has no attribute {name!r}')

    return __getattr__


class _AliasFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports modules by their names in 0.1."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for an old name, and None for any other."""
        prefix, _, name = fullname.partition('.')
        if prefix != _PACKAGE or not (
            name in MOVED_MODULES or name in REMOVED_PACKAGES
        ):
            return None
        is_package = any(o.startswith(f'{name}.') for o in MOVED_MODULES)
        return importlib.machinery.ModuleSpec(
            fullname, self, is_package=is_package
        )

    def create_module(
        self, spec: importlib.machinery.ModuleSpec
    ) -> types.ModuleType | None:
        """Use the default module; :meth:`exec_module` replaces it."""
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        """Make the old name refer to the new module."""
        old = module.__name__
        name = old.partition('.')[2]
        if name in MOVED_MODULES:
            new = f'{_PACKAGE}.{MOVED_MODULES[name]}'
            warn_renamed(f'the module {old}', new)
            sys.modules[old] = importlib.import_module(new)


def install() -> None:
    """Let old module names be imported."""
    if not any(isinstance(f, _AliasFinder) for f in sys.meta_path):
        # before the finder of files: it would import the files of a package
        # a second time under the old name
        sys.meta_path.insert(0, _AliasFinder())
