# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The actors of a cluster, and addresses without one."""

import importlib.util
import socket

import pytest

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
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    assert caption(tmp_path, f'--ray={address}') == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert error.startswith(
        f'error: nothing answers at the Ray address {address} (Connection '
        'refused); give the address'
    )
    assert [path.name for path in tmp_path.iterdir()] == ['images']
