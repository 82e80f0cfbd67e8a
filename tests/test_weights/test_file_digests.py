# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Digests of large files are computed once."""

import hashlib

import pytest

from minigpt4.weights import file_digests
from minigpt4.weights.file_digests import file_digest


def test_digest_is_computed_once(tmp_path, cache, monkeypatch):
    file = tmp_path / 'a'
    file.write_bytes(b'one')
    digest = hashlib.sha256(b'one').hexdigest()
    assert file_digest(file) == digest
    with monkeypatch.context() as patch:
        patch.setattr(file_digests, 'compute_digest', pytest.fail)
        assert file_digest(file) == digest
    file.write_bytes(b'another')
    assert file_digest(file) == hashlib.sha256(b'another').hexdigest()


def test_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / 'file').write_bytes(b'one')
    monkeypatch.setenv('MINIGPT4_CACHE', str(tmp_path / 'file'))
    assert file_digest(tmp_path / 'file') == hashlib.sha256(b'one').hexdigest()
