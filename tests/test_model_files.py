# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 download`` lists, downloads and checks the files of a model."""

import pytest

from minigpt4 import model_files
from minigpt4.model_files import ModelFile
from minigpt4_cli import main as cli
from tests.file_server import HASHED, SHA256, files_in


@pytest.fixture
def published(file_server, monkeypatch) -> str:
    """The name of the 7B model, whose files are on the file server."""
    name = 'minigpt-4_vicuna-7b_caption'
    files, llm = model_files.model_files(name)
    served = [
        ModelFile(file.component, f'{file_server.url}/{file.name}')
        for file in files
    ]
    served[-1] = ModelFile('head', f'{file_server.url}/{HASHED}')
    monkeypatch.setattr(model_files, 'model_files', lambda _: (served, llm))
    return name


def test_files_of_a_model_are_downloaded(
    file_server, published, capsys, tmp_path
):
    assert (
        cli.main(['download', published, '--dest', str(tmp_path / 'd')]) == 0
    )
    out = capsys.readouterr().out
    names = {'eva_vit_g.pth', 'blip2_pretrained_flant5xxl.pth', HASHED}
    assert names <= files_in(tmp_path / 'd')
    assert all(str(tmp_path / 'd' / name) in out for name in names)
    assert out.count('no published hash') >= 2
    assert '8 digits of its SHA-256' in out and '300.0 kB' in out
    assert 'MINIGPT4_LLM' in out and 'Vision-CAIR/vicuna-7b' in out
    assert f'export MINIGPT4_CACHE={tmp_path / "d"}' in out


def test_failure_does_not_stop_other_files(
    file_server, published, capsys, cache
):
    file_server.statuses = [404]
    assert cli.main(['download', published]) == 1
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith('eva_vit_g.pth could not be downloaded')
    assert 'not downloaded' in out
    assert {'blip2_pretrained_flant5xxl.pth', HASHED} <= files_in(cache)


def test_dry_run_makes_no_request(file_server, published, capsys, cache):
    assert cli.main(['download', published, '--dry-run', '--llm']) == 0
    out = capsys.readouterr().out
    assert out.count('would go to') == 3 and 'would be downloaded' in out
    assert not file_server.requests and not cache.exists()


def test_url_with_a_hash(file_server, capsys):
    url = f'{file_server.url}/a.pth'
    assert cli.main(['download', url, '--sha256', SHA256]) == 0
    assert 'its SHA-256' in capsys.readouterr().out
    assert (
        cli.main(
            ['download', f'{file_server.url}/b.pth', '--sha256', 'ab' * 32]
        )
        == 1
    )
    assert f'expected {"ab" * 32}' in capsys.readouterr().err


def test_list_has_every_model(capsys):
    assert cli.main(['download', '--list']) == 0
    out = capsys.readouterr().out
    for name in model_files.our_models():
        assert name in out
    assert 'LAVIS/models/BLIP2/eva_vit_g.pth' in out
    small = out[out.index('minigpt-4_small_caption') :]
    small = small[: small.index('minigpt-4_vicuna-7b_caption')]
    for name in ('efficientnet-lite2-9656183e.pth', 'SmolLM2-135M-Instruct'):
        assert name in small
    assert 'minigpt4_small.pth' in small


@pytest.mark.parametrize(
    'name, hint',
    [
        ('minigpt-4_vicuna-7b', 'mean minigpt-4_vicuna-7b_caption'),
        ('blip2', 'there are minigpt-4_nano_caption'),
    ],
)
def test_unknown_name_suggests_another(capsys, name, hint):
    assert cli.main(['download', name]) == 2
    assert hint in capsys.readouterr().err


def test_nano_model_needs_no_download(capsys, cache):
    assert cli.main(['download', 'minigpt-4_nano_caption']) == 0
    assert 'minigpt4_nano.pth' in capsys.readouterr().out
    assert not cache.exists()


def test_projection_that_is_not_hosted(cache, capsys, monkeypatch):
    monkeypatch.setenv('MINIGPT4_OFFLINE', '1')
    assert cli.main(['download', 'minigpt-4_llama2-7b_caption']) == 1
    out, err = capsys.readouterr()
    assert 'head: no projection is hosted' in out
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize('kind', ['.safetensors', '.bin'])
def test_llm_is_downloaded_in_one_format(
    file_server, published, capsys, monkeypatch, tmp_path, kind
):
    import huggingface_hub

    asked = []

    def snapshot(repository, **settings):
        asked.append((repository, settings))
        return str(tmp_path / 'llm')

    names = ['config.json', 'pytorch_model.bin', f'model{kind}']
    monkeypatch.setattr(huggingface_hub, 'list_repo_files', lambda _: names)
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', snapshot)
    assert cli.main(['download', published, '--llm']) == 0
    ((repository, settings),) = asked
    assert repository == 'Vision-CAIR/vicuna-7b'
    patterns = settings['allow_patterns']
    assert f'*{kind}' in patterns and '*.json' in patterns
    assert len({'*.bin', '*.safetensors'} & set(patterns)) == 1
    assert f'MINIGPT4_LLM={tmp_path / "llm"}' in capsys.readouterr().out


def test_llm_that_cannot_be_downloaded(published, capsys, monkeypatch):
    monkeypatch.setenv('MINIGPT4_OFFLINE', '1')
    assert cli.main(['download', published, '--llm']) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith('the LLM Vision-CAIR/vicuna-7b could not be downlo')


def test_local_llm_is_not_downloaded(
    file_server, published, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv('MINIGPT4_LLM', str(tmp_path))
    assert cli.main(['download', published, '--llm']) == 0
    assert f'LLM: {tmp_path}' in capsys.readouterr().out


@pytest.mark.parametrize(
    'address, message',
    [
        ('ftp://host/x.pth', 'is a ftp address; expected http or https'),
        ('http://[bad/x.pth', 'is not an address of a file'),
    ],
)
def test_other_addresses_are_refused(capsys, address, message):
    assert cli.main(['download', address]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f'error: {address}') and message in err


def test_name_is_printed_without_markup_or_control_characters(
    cache, capsys, monkeypatch
):
    monkeypatch.setenv('MINIGPT4_OFFLINE', '1')
    assert (
        cli.main(['download', 'http://host.invalid/x[bold]\x1b[31m.pth']) == 1
    )
    out, err = capsys.readouterr()
    assert 'x[bold]' in out and '\x1b' not in out + err


def test_escaped_name(file_server, cache, capsys):
    url = f'{file_server.url}/my%20file.pth'
    assert cli.main(['download', url, '--dry-run']) == 0
    assert str(cache / 'my file.pth') in capsys.readouterr().out
