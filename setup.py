# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The folder of the packages, and the ``.mim`` folder that mim reads.

Everything else about the distribution is declared in pyproject.toml.
"""

import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SOURCE = 'projects'
PACKAGES = (
    *('minigpt4', 'minigpt4.*'),
    *('minigpt4_cli', 'minigpt4_cli.*'),
    'minigpt4_vllm',
)
MIM_FILES = ('configs', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    """Add ``.mim`` to the package: copies in a wheel, links if editable.

    ``pip install -e`` runs ``editable_wheel``, so mmengine's check for
    ``develop`` on the command line would omit the folder.
    """

    def run(self) -> None:
        """Build the modules, then ``.mim``."""
        super().run()
        base = ROOT / SOURCE if self.editable_mode else Path(self.build_lib)
        mim = base / 'minigpt4' / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        if self.editable_mode:
            (mim / '.gitignore').write_text('*\n')
        for name in MIM_FILES:
            if (ROOT / name).exists():
                self._add(ROOT / name, mim / name)

    def _add(self, source: Path, target: Path) -> None:
        if self.editable_mode:
            try:
                target.symlink_to(os.path.relpath(source, target.parent))
                return
            except OSError:  # Windows without the right to make links
                pass
        if source.is_dir():
            shutil.copytree(
                source,
                target,
                ignore=shutil.ignore_patterns('__pycache__', '*.py[cod]'),
            )
        else:
            shutil.copy2(source, target)


setup(
    package_dir={'': SOURCE},
    packages=find_packages(SOURCE, include=PACKAGES),
    cmdclass={'build_py': BuildWithMim},
)
