# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Names of shipped weights and of local files."""

from pathlib import Path

from minigpt4.weights.shipped import NANO_FOLDER, shipped_or_local


def test_nano_names_are_files_of_the_package():
    assert shipped_or_local('nano/llm') == NANO_FOLDER / 'llm'
    assert (NANO_FOLDER / 'llm').is_dir()


def test_small_names_are_files_of_the_package():
    assert shipped_or_local('small/minigpt4_small.pth').is_file()


def test_local_paths_take_precedence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped_or_local('other/llm') == Path('other/llm')
    assert shipped_or_local('~/llm') == Path.home() / 'llm'
    (tmp_path / 'nano').mkdir()
    (tmp_path / 'nano/llm').touch()
    assert shipped_or_local('nano/llm') == Path('nano/llm')
