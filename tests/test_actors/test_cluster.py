# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The actors of a cluster, and addresses without one."""

import importlib.util
import os
import socket
import threading

import pytest
from tests.free_port import free_port

from minigpt4.actors.cluster import (
    ActorPlan,
    current_cluster,
    plan_actors,
    use_ray,
)
from minigpt4_cli import main as cli


def machine(cpus, gpus=0):
    return dict(CPU=float(cpus), GPU=float(gpus), memory=1e9)


@pytest.mark.parametrize(
    ('machines', 'number', 'device', 'plan'),
    [
        ([machine(32, 8), machine(16, 4)], None, None, (12, 4, 1, 2)),
        ([machine(32, 8), machine(64)], 3, 'cuda', (3, 4, 1, 2)),
        ([machine(2, 8)], None, None, (8, 0, 1, 1)),
        ([machine(32, 8), machine(8)], None, 'cpu', (5, 8, 0, 2)),
        ([machine(2)], None, None, (1, 2, 0, 1)),
        ([machine(2)], 2, None, (2, 1, 0, 1)),
        ([machine(16), machine(8)], 3, None, (3, 8, 0, 2)),
        ([machine(16), machine(8)], 4, None, (4, 5, 0, 2)),
        ([machine(0), machine(4)], None, None, (1, 4, 0, 2)),
    ],
)
def test_actors_of_equal_size_fit_into_the_machines(
    machines, number, device, plan
):
    assert plan_actors(machines, number, device) == ActorPlan(*plan)


@pytest.mark.parametrize(
    ('machines', 'number', 'message'),
    [
        ([machine(8, 2)], 3, '--actors is 3, but the cluster has 2 GPUs'),
        ([machine(2)], 3, '--actors is 3, but the cluster has 2 CPUs'),
        ([machine(0)], None, 'has neither GPUs nor CPUs'),
        ([], None, 'has neither GPUs nor CPUs'),
    ],
)
def test_a_cluster_that_is_too_small_is_refused(machines, number, message):
    with pytest.raises(ValueError, match=message):
        plan_actors(machines, number)


def test_without_an_address_there_is_no_cluster():
    with use_ray(None, 4):
        assert current_cluster() is None


def caption(folder, *options):
    (folder / 'images').mkdir()
    words = ['caption', folder / 'images', '-o', folder / 'out.jsonl']
    try:
        return cli.main([*map(str, words), *options])
    except SystemExit as error:  # of a wrong command line
        return error.code


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        'find_spec',
        lambda name, *args: None if name == 'ray' else find(name, *args),
    )
    assert caption(tmp_path, '--ray') == 1
    assert capsys.readouterr().err == (
        'error: --ray needs the package ray, which is not installed; run: '
        "pip install 'minigpt4[ray]'.\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ['images']


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--ray', 'images'], 'images is no address of a Ray cluster'),
        (['--ray=ray://a:10001'], 'ray://a:10001 is no address'),
        (['--ray=a:99999'], 'a:99999 is no address'),
        (['--actors', '2'], '--actors goes with --ray'),
        (['--ray', '--device', 'cuda:1'], 'each actor has a GPU of its own'),
    ],
)
def test_a_wrong_option_is_refused(tmp_path, capsys, options, message):
    assert caption(tmp_path, *options) == 2
    assert message in capsys.readouterr().err


def test_an_address_where_nothing_answers_is_one_sentence(tmp_path, capsys):
    pytest.importorskip('ray', reason='needs ray')
    address = f'127.0.0.1:{free_port()}'
    assert caption(tmp_path, f'--ray={address}') == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert error.startswith(
        f'error: nothing answers at the Ray address {address} (Connection '
        'refused); give the address'
    )
    assert [path.name for path in tmp_path.iterdir()] == ['images']


@pytest.mark.parametrize(
    'answer', [b'HTTP/1.1 400 Bad Request\r\n\r\n', b'', b'\0']
)
def test_an_address_of_another_program_is_one_sentence(
    tmp_path, capsys, answer
):
    pytest.importorskip('ray', reason='needs ray')
    with socket.create_server(('127.0.0.1', 0)) as server:
        address = f'127.0.0.1:{server.getsockname()[1]}'

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert caption(tmp_path, f'--ray={address}') == 1
        thread.join()
    assert capsys.readouterr().err == (
        f'error: another program than Ray answers at {address}; give the '
        'address that "ray start --head" printed.\n'
    )


@pytest.mark.parametrize(
    ('address', 'message'),
    [
        ('127.0.0.1:9', 'nothing answers at the Ray address 127.0.0.1:9'),
        ('ray://a:10001', 'RAY_ADDRESS: ray://a:10001 is no address of a Ray'),
        ('localhost', 'RAY_ADDRESS: localhost is no address of a Ray cluster'),
    ],
)
def test_ray_address_without_a_cluster_starts_no_other_one(
    tmp_path, capsys, monkeypatch, address, message
):
    pytest.importorskip('ray', reason='needs ray')
    monkeypatch.setenv('RAY_ADDRESS', address)
    assert caption(tmp_path, '--ray') == 1
    assert capsys.readouterr().err.startswith(f'error: {message}')


@pytest.mark.parametrize('place', ['file', 'RAY_AUTH_TOKEN', None])
def test_a_token_is_used_if_there_is_one(tmp_path, capsys, monkeypatch, place):
    pytest.importorskip('ray', reason='needs ray')
    monkeypatch.setenv('HOME', str(tmp_path))
    for name in ('RAY_AUTH_MODE', 'RAY_AUTH_TOKEN', 'RAY_AUTH_TOKEN_PATH'):
        monkeypatch.delenv(name, raising=False)
    if place == 'file':
        (tmp_path / '.ray').mkdir()
        (tmp_path / '.ray' / 'auth_token').write_text('token')
    elif place is not None:
        monkeypatch.setenv(place, 'token')
    assert caption(tmp_path, '--ray=127.0.0.1:9') == 1
    mode = os.environ.pop('RAY_AUTH_MODE', None)
    assert mode == (None if place is None else 'token')


@pytest.mark.parametrize('last', ['refuses', 'killed', None])
def test_a_cluster_that_cannot_be_used_is_reported(
    monkeypatch, tmp_path, log, last
):
    ray = pytest.importorskip('ray', reason='needs ray')
    monkeypatch.delenv('RAY_ADDRESS', raising=False)
    monkeypatch.setenv('RAY_TMPDIR', str(tmp_path))
    if last == 'killed':
        (tmp_path / 'ray').mkdir()
        (tmp_path / 'ray' / 'ray_current_cluster').write_text('127.0.0.1:9')
    started = []

    def init(address, **options):
        started.append(address)
        if address == 'auto':
            raise ConnectionError(
                'Failed to connect to Ray cluster at 10.0.0.1:6379'
                if last
                else 'Could not find any running Ray instance. Please specify'
            )

    monkeypatch.setattr(ray, 'init', init)
    monkeypatch.setattr(ray, 'nodes', lambda: [])
    with pytest.raises(ValueError, match='neither GPUs nor CPUs'):
        with use_ray('auto'):
            pytest.fail('there is no machine')
    assert started == (['local'] if last == 'killed' else ['auto', 'local'])
    message = 'the last Ray cluster of this machine cannot be used ('
    assert [message in line for line in log] == [True] * bool(last)
