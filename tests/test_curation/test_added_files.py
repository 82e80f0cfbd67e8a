# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Only the file that was added is read."""

import pickle

import pytest

from minigpt4.curation.added_files import ImageProblem, read_added


def test_a_file_is_read_as_it_was_added(tmp_path, added):
    path = tmp_path / 'a.png'
    path.write_bytes(b'one')
    image = added(1, path)
    assert read_added(image) == b'one'
    path.write_bytes(b'two')
    with pytest.raises(ImageProblem, match='a.png is not the file') as error:
        read_added(image)
    assert error.value.kind == 'changed'
    path.unlink()
    with pytest.raises(ImageProblem, match='a.png does not exist') as error:
        read_added(image)
    assert error.value.kind == 'missing'
    copy = pickle.loads(pickle.dumps(error.value))
    assert (copy.kind, str(copy)) == ('missing', str(error.value))
