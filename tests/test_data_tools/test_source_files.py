# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What an import of a folder does not read is named."""

import json

import pytest
from PIL import Image

from minigpt4.data_tools.formats import find_format
from minigpt4.data_tools.source_files import files_not_read
from minigpt4_cli.main import main


@pytest.fixture
def not_read(tmp_path):
    """Function that creates files, and imports their folder by name."""

    def not_read(*names):
        for name in names:
            path = tmp_path / 'd' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            text = '{}' if path.suffix == '.json' else 'image,caption\n'
            path.write_text(text)
        format_, path = find_format(tmp_path / 'd')
        found = files_not_read(
            tmp_path / 'd', path, format_.name, tmp_path / 'd/out'
        )
        return format_.name, found

    return not_read


def test_other_formats_are_named(not_read):
    name, found = not_read(
        *('a.parquet', 'b/c.parquet', 'x.csv', 'y.json', 'b/z.tar'),
        *('1.jpg', '1.txt', '2.jpg', '2.caption', 'readme.txt'),
        *('out/filter_cap.json', 'import.json', '.hidden.csv'),
    )
    assert name == 'parquet'
    assert found == [
        *('x.csv', 'y.json', 'b/z.tar'),
        '2 text files next to images',
    ]


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        (['1.jpg', '1.txt'], []),
        (['1.jpg', '1.txt', 'a.csv', 'b.csv'], ['a.csv', 'b.csv']),
        (['metadata.csv', 'other.csv'], ['other.csv']),
        (['00000.tar', '00000.parquet', '00000_stats.json'], []),
        (['state.json', 'dataset_info.json'], []),
        (
            ['captions_a.json', 'annotations/captions_b.json', 'a.json'],
            ['a.json'],
        ),
        (
            [
                'v2_mscoco_val2014_annotations.json',
                'v2_OpenEnded_mscoco_val2014_questions.json',
            ],
            [],
        ),
    ],
)
def test_files_of_a_format(not_read, names, expected):
    assert not_read(*names)[1] == expected


def test_the_command_names_them(tmp_path, capsys):
    folder = tmp_path / 'd'
    folder.mkdir()
    Image.new('RGB', (8, 8)).save(folder / 'a.png')
    (folder / 'a.txt').write_text('a dog')
    (folder / 'b.csv').write_text('image,caption\na.png,a cat\n')
    out = tmp_path / 'out'
    assert main(['data', 'import', str(folder), '-o', str(out), '-q']) == 0
    error = capsys.readouterr().err
    assert 'is read as folder; not read: b.csv; import' in error
    summary = json.loads((out / 'import.json').read_text())
    assert summary['not_read'] == ['b.csv']


def test_an_empty_source_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(['data', 'import', '', '-o', 'out'])
    assert "'' is no path" in capsys.readouterr().err
