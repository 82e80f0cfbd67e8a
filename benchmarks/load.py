# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Build backbone, neck and projection from files: CPU time and memory.

EVA-ViT-g has a third of its depth, in fp16 as in its published file and on a
GPU; the Q-Former is in fp32; the files are in the page cache. Each repetition
is a fork of a process that has imported everything, so that it has its own
peak. At its end it reads each page of the weights, so that mapped files are
read too.

    python benchmarks/load.py SIDE FOLDER
"""

import hashlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import harness

# a third of EVA-ViT-g's 39 blocks
VIT = dict(width=1408, depth=13, num_heads=16, mlp_width=6144)
WIDTH = 4096
BERT = dict(width=768, hidden=3072, layers=12, words=30523, positions=512)
SIDES = ('ours', 'official')


def save(folder: Path) -> None:
    """Save the same random weights as our files and as the official ones."""
    import torch
    from safetensors.torch import save_file

    from minigpt4.models import EVAViT, LinearProjector, QFormer

    torch.manual_seed(0)
    modules = dict(
        vit=EVAViT(arch=VIT, dtype='float32').half(),
        q_former=QFormer(num_queries=32),
        head=LinearProjector(768, WIDTH),
    )
    for name, module in modules.items():
        state = module.state_dict()
        save_file(state, folder / f'{name}.safetensors')
        torch.save({'model': state}, folder / f'{name}.pth')


def weight_bytes(folder: Path) -> int:
    """Return the bytes of all weights."""
    return sum(file.stat().st_size for file in folder.glob('*.safetensors'))


def ours(folder: Path) -> list:
    """Build on the meta device and assign the mapped tensors of the files."""
    from safetensors.torch import load_file

    from minigpt4.models import EVAViT, LinearProjector, QFormer

    vit = EVAViT(
        arch=VIT, checkpoint=str(folder / 'vit.safetensors'), dtype='float16'
    )
    q_former = QFormer(
        num_queries=32, checkpoint=str(folder / 'q_former.safetensors')
    )
    head = LinearProjector(768, WIDTH)
    head.load_state_dict(load_file(folder / 'head.safetensors'))
    return [vit, q_former, head]


def official(folder: Path) -> list:
    """Build as the official constructor does.

    Everything is built and initialised in fp32: linear layers by PyTorch, then
    again by ``trunc_normal_`` or ``normal_``; for BERT also the word
    embeddings, text layers and head, which are then deleted. Files are read
    completely, copied to the modules, and the ViT is converted to fp16.
    """
    import torch
    from torch import nn

    from minigpt4.models import EVAViT, LinearProjector, QFormer

    def read(name: str) -> dict:
        return torch.load(folder / f'{name}.pth', map_location='cpu')['model']

    def initialise(module: nn.Module, function: Callable) -> None:
        for layer in module.modules():
            if isinstance(layer, (nn.Linear, nn.Embedding)):
                function(layer.weight, std=0.02)

    vit = EVAViT(arch=VIT, dtype='float32')
    nn.init.trunc_normal_(vit.pos_embed.data, std=0.02)
    nn.init.trunc_normal_(vit.cls_token.data, std=0.02)
    initialise(vit, nn.init.trunc_normal_)
    vit.load_state_dict(read('vit'))
    vit.half()
    q_former = QFormer(num_queries=32)
    width, hidden = BERT['width'], BERT['hidden']
    text = nn.ModuleList(
        [
            nn.Embedding(BERT['words'], width),
            nn.Embedding(BERT['positions'], width),
            nn.Linear(width, BERT['words']),
            *(
                nn.Sequential(
                    nn.Linear(width, hidden), nn.Linear(hidden, width)
                )
                for _ in range(BERT['layers'])
            ),
        ]
    )
    initialise(q_former, nn.init.normal_)
    initialise(text, nn.init.normal_)
    del text
    q_former.load_state_dict(read('q_former'))
    head = LinearProjector(768, WIDTH)
    head.load_state_dict(read('head'))
    return [vit, q_former, head]


def memory() -> dict[str, int]:
    """Return the bytes of this process: now, peak, and anonymous."""
    status = Path('/proc/self/status').read_text()
    fields = dict(line.split(':', 1) for line in status.splitlines())
    return {
        name: int(fields[key].split()[0]) * 1024
        for name, key in (
            ('all', 'VmRSS'),
            ('peak', 'VmHWM'),
            ('anonymous', 'RssAnon'),
        )
    }


def touch(modules: list) -> None:
    """Read one value of each page of the weights."""
    for module in modules:
        for tensor in module.state_dict().values():
            tensor.detach().flatten().view(-1)[:: 4096 // 4].float().sum()


def digest(modules: list) -> str:
    """Return a digest of all tensors with their names and types."""
    state = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            state.update(f'{name} {tensor.dtype}'.encode())
            state.update(tensor.numpy().tobytes())
    return state.hexdigest()


def once(side: Callable, folder: Path, watched: bool = False) -> dict:
    """Build in a fork; return seconds, or bytes and a tensor digest."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        before, start = memory(), time.process_time()
        anonymous = [0]
        if watched:
            threading.Thread(
                target=watch, args=[anonymous], daemon=True
            ).start()
        modules = side(folder)
        touch(modules)
        figures = dict(seconds=time.process_time() - start)
        if watched:
            figures['peak'] = memory()['peak'] - before['all']
            figures['anonymous'] = max(anonymous) - before['anonymous']
            figures['digest'] = digest(modules)
        os.write(writer, json.dumps(figures).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text)


def watch(samples: list[int]) -> None:
    """Sample the anonymous memory until the process ends."""
    while True:
        samples.append(memory()['anonymous'])
        time.sleep(0.005)


def build(side: str, folder: Path) -> tuple[Callable[[], float], dict]:
    """Return the function to measure, and the digest that must be equal."""
    import warnings

    # here, so that no fork has to import them
    import safetensors.torch  # noqa: F401
    import torch
    from mmengine.logging import MMLogger

    import minigpt4.models  # noqa: F401

    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    MMLogger.get_instance('load', log_level='ERROR')
    make = dict(ours=ours, official=official)[side]

    def work() -> float:
        return once(make, folder)['seconds']

    figures = once(make, folder, watched=True)
    (folder / f'{side}.json').write_text(json.dumps(figures))
    return work, dict(tensors=figures['digest'])


def measure(repeats: int) -> list[dict]:
    """Measure the rows: time, and memory in a separate repetition."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save(folder)
        weights = weight_bytes(folder)
        rows = [
            harness.compare(
                'load',
                *(harness.side('load.py', side, folder) for side in SIDES),
                'CPU-s',
                6,
                peer_name='official, reimplemented',
                rate=False,
                repeats=repeats,
            )
        ]
        found = [
            json.loads((folder / f'{side}.json').read_text()) for side in SIDES
        ]
    for figure, name, goal, at_most in (
        ('peak', 'peak memory', 3, 1.1),
        ('anonymous', 'peak anonymous memory', None, None),
    ):
        us, peer = (figures[figure] / weights for figures in found)
        rows.append(
            harness.row(
                f'load {figure}',
                us,
                f'{name} / weights',
                peer=peer,
                ratio=peer / us,
                goal=goal,
                at_most=at_most,
                guard_ok=rows[0]['guard_ok'],
                guard=rows[0]['guard'],
                peer_name='official, reimplemented',
                weight_bytes=weights,
            )
        )
    return rows


if __name__ == '__main__':
    harness.worker(lambda: build(sys.argv[1], Path(sys.argv[2])), warm_ups=0)
