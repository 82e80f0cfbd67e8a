# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Files of marks: as the page exports them, and as spreadsheets write them."""

import json

import pytest

from minigpt4.evaluation.marks import compare_raters, import_marks, run_digest
from minigpt4.evaluation.marks_file import read_marks

RUN = '0123456789abcdef'
HEADER = 'run,rater,number,mark'


def write(path, *lines, header=HEADER, encoding='utf-8', end='\n'):
    path.write_bytes(end.join([header, *lines, '']).encode(encoding))
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / 'marks.csv'


@pytest.mark.parametrize('separator', [',', ';', '\t'])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'])
@pytest.mark.parametrize('end', ['\n', '\r\n'])
@pytest.mark.parametrize('quote', ['', '"'])
def test_tables_of_spreadsheets(file, separator, encoding, end, quote):
    rows = [HEADER.split(','), [RUN, 'ann', '0', '1'], [RUN, 'ann', '3', '2']]
    lines = [separator.join(f'{quote}{c}{quote}' for c in r) for r in rows]
    write(file, *lines[1:], header=lines[0], encoding=encoding, end=end)
    assert read_marks(file) == (RUN, {'ann': {0: 1, 3: 2}})


def test_other_columns_empty_rows_and_decimals(file):
    write(
        file,
        f'2.0;{RUN};  ann ;1,0;so',
        ';;;;',
        f'4;{RUN};ann;;removed',
        header='Number;Run;Rater;Mark;Comment',
    )
    assert read_marks(file).raters == {'ann': {2: 1}}
    file.write_text(f'sep=;\nrun;rater;number;mark\n{RUN};ann;2;1\n')
    assert read_marks(file).raters == {'ann': {2: 1}}


def test_marks_of_several_people_in_one_file(file):
    write(file, f'{RUN},ann,0,1', f'{RUN},ben,0,2', f'{RUN},ann,0,1')
    assert read_marks(file).raters == {'ann': {0: 1}, 'ben': {0: 2}}


@pytest.mark.parametrize(
    ('lines', 'reason'),
    [
        (
            [f'{RUN},ann,5,1', f'{RUN},ann,6,1', f'{RUN},ann,5,2'],
            'line 2 and line 4 have the marks 1 and 2 of ann for the answer 5',
        ),
        ([f'{RUN},ann,5,3'], 'line 2 has the mark 3; expected 1 or 2'),
        ([f'{RUN},ann,5,fine'], 'line 2 has the mark "fine"; expected a who'),
        ([f'{RUN},ann,5.5,1'], 'line 2 has the number "5.5"; expected a who'),
        ([f'{RUN},,5,1'], 'line 2 has an empty cell in the column rater'),
        ([f'{RUN},an/n,5,1'], 'line 2 has the rater "an/n"; expected a name'),
        ([f'{RUN},ann,5,1,2'], 'line 2 has 5 cells, the header has 4'),
        ([f'{RUN},ann,5,'], 'has no marks yet; mark some answers first'),
        ([], 'has no marks yet; mark some answers first'),
        (
            [f'{RUN},ann,5,1', f'{RUN[::-1]},ben,5,1'],
            f'has marks of different answers (run {RUN}, and in line 3 ',
        ),
    ],
)
def test_wrong_tables_are_refused(file, lines, reason):
    write(file, *lines)
    with pytest.raises(ValueError) as error:
        read_marks(file)
    assert reason in str(error.value) and str(file) in str(error.value)


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        ('', 'has no marks (its first line is'),
        ('number,mark\n1,1\n', "has no marks (its first line is 'number,mar"),
        ('{"run": "x"}', 'has no marks; expected the JSON or CSV file'),
        ('{', 'has no marks; expected the JSON or CSV file'),
        (
            '{"run": "x", "rater": "ann", "marks": {"1": true}}',
            'answer 1 has the mark true; expected a whole number',
        ),
        (
            '{"run": "x", "rater": "ann", "marks": {"1": 1.5}}',
            'answer 1 has the mark 1.5; expected a whole number',
        ),
    ],
)
def test_other_files_are_refused(file, content, reason):
    file.write_text(content)
    with pytest.raises(ValueError) as error:
        read_marks(file)
    assert reason in str(error.value)


@pytest.fixture
def folder(tmp_path):
    """A result folder of ``abilities`` with six answers."""
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'settings.json').write_text('{"protocol": "abilities"}')
    rows = [
        dict(number=n, group='poem', prompt='?', answer='x', image='a.png')
        for n in range(6)
    ]
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    (out / 'answers.jsonl').write_text(text)
    return out, run_digest(rows)


def test_people_are_compared(folder, file):
    out, run = folder
    marks = dict(ann=[1, 1, 2, 2, 1, 2], ben=[1, 1, 2, 1, 1, 1])
    lines = [
        f'{run},{name},{n},{mark}'
        for name, values in marks.items()
        for n, mark in enumerate(values)
    ]
    first, second = import_marks(out, write(file, *lines))
    assert first['scores']['poem']['value'] == 0.5
    assert second['scores']['poem']['value'] == pytest.approx(5 / 6, abs=1e-6)
    # equal 4/6; by chance 3/6 * 5/6 + 3/6 * 1/6 = 1/2
    expected = dict(raters=['ann', 'ben'], both=6, equal=4, kappa=0.333333)
    assert compare_raters(out) == [expected]
    summary = json.loads((out / 'marks_summary.json').read_text())
    assert summary['pairs'] == [expected]
    assert [r['rater'] for r in summary['raters']] == ['ann', 'ben']
    for name, values in marks.items():
        stored = json.loads((out / f'marks-{name}.json').read_text())
        assert [*stored['marks'].values()] == values
    # a third person later, in another file
    (third,) = import_marks(out, write(file, f'{run},cem,0,1'))
    assert third['marked'] == 1 and len(compare_raters(out)) == 3


def test_stored_marks_are_replaced_on_request(folder, file):
    out, run = folder
    import_marks(out, write(file, f'{run},ann,0,1', f'{run},ann,1,1'))
    # more marks: nothing is lost
    more = [f'{run},ann,{n},1' for n in range(3)]
    (found,) = import_marks(out, write(file, *more))
    assert (found['marked'], found['before'], found['lost']) == (3, 2, 0)
    before = (out / 'marks-ann.json').read_bytes()
    write(file, f'{run},ben,0,1', f'{run},ann,0,2', f'{run},ann,1,1')
    with pytest.raises(ValueError) as error:
        import_marks(out, file)
    assert (
        'marks-ann.json has 3 marks of ann, of which '
        f'{file} changes or lacks 2; give --replace'
    ) in str(error.value)
    # nothing was stored, not even of the other person
    assert (out / 'marks-ann.json').read_bytes() == before
    assert not (out / 'marks-ben.json').exists()
    found = import_marks(out, file, replace=True)
    assert [(f['rater'], f['before'], f['lost']) for f in found] == [
        ('ben', 0, 0),
        ('ann', 3, 2),
    ]


def test_a_digest_that_a_spreadsheet_has_changed(folder, file):
    out, _ = folder
    with pytest.raises(ValueError, match='has changed the column run'):
        import_marks(out, write(file, '1.23E+15,ann,0,1'))
