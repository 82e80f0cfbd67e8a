# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Files of a shard are grouped into samples."""

import pytest

from minigpt4.datasets.shard_samples import group_samples


def keys(*names):
    reports = []
    members = [(name, name.encode()) for name in names]
    found = group_samples(members, 'x', lambda *report: reports.append(report))
    return [
        (s.pop('__key__'), *sorted({*s} - {'__url__'})) for s in found
    ], reports


@pytest.mark.parametrize(
    'names, samples',
    [
        ('7.jpg 7.json 8.jpg 8.json', ['7 jpg json', '8 jpg json']),
        ('7.jpg 7.seg.png 7.json', ['7 jpg json seg.png']),
        ('7.cls.txt 7.jpg', ['7 cls.txt jpg']),
        # webdataset #237, datasets #7144
        ('22.05.jpg 22.05.json 22.06.jpg', ['22.05 jpg json', '22.06 jpg']),
        ('a.b.c.jpg a.b.c.txt', ['a.b.c jpg txt']),
        ('v1.0/7.jpg v1.0/7.txt', ['v1.0/7 jpg txt']),
        ('7.JPG 7.Json', ['7 jpg json']),
        ('._7.jpg 7.jpg __MACOSX/._7.jpg nodot', ['7 jpg']),
        ('set/7.jpg set/Thumbs.db set/7.txt', ['set/7 jpg txt']),
        ('set/7.jpg set/.DS_Store set/._7.txt set/7.txt', ['set/7 jpg txt']),
        ('7.mask 7.x.y', ['7 mask x.y']),
        # open_clip #480: the fields input.jpg and output.txt of ShardWriter
        ('7.input.jpg 7.output.txt', ['7 jpg txt']),
        ('7.x.jpg 7.y.json 8.x.jpg 8.y.json', ['7 jpg json', '8 jpg json']),
        ('7.a.jpg 7.a.txt 7.b.jpg', ['7.a jpg txt', '7.b jpg']),
        ('v1.05.jpg v1.06.txt', ['v1.05 jpg', 'v1.06 txt']),
        ('7.jpg 7.__key__ 7.txt', ['7 jpg txt']),
    ],
)
def test_files_are_grouped_into_samples(names, samples):
    found, reports = keys(*names.split())
    assert [' '.join(each) for each in found] == samples
    assert reports == []


def test_files_apart_from_their_sample_are_reported():
    """webdataset #140, ray #44068: such samples were lost silently."""
    found, reports = keys('0.jpg', '1.jpg', '0.txt', '1.txt')
    assert len(found) == 4
    assert [kind for kind, _ in reports] == ['unread'] * 2
    assert reports[0][1].startswith('0.txt does not follow the other files')


def test_many_names_with_the_same_start_are_grouped_in_batches():
    names = [f'a.{i}.{x}' for i in range(200) for x in ('jpg', 'json', 'txt')]
    found, _ = keys(*names)
    assert found == [(f'a.{i}', 'jpg', 'json', 'txt') for i in range(200)]


def test_duplicates_are_reported_and_the_first_is_used():
    found, reports = keys('7.jpg', '7.txt', '7.jpg', '7.TXT')
    assert found == [('7', 'jpg', 'txt')]
    assert [kind for kind, _ in reports] == ['duplicate'] * 2
