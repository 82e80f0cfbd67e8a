# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Building backbone, neck and projection from files: CPU time and memory.

EVA-ViT-g at a third of its depth in fp16, as its published file and a GPU
have it, the Q-Former in fp32, files in the page cache. Each repetition is a
fork of a process that has imported everything, so that peaks are its own. At
its end it touches each page of the weights: what is mapped is read too.

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
    """The same random weights as our files and as the official ones."""
    import torch
    from safetensors.torch import save_file

    from minigpt4.models import EVAViT, LinearProjector, QFormer

    torch.manual_seed(0)
    parts = dict(
        vit=EVAViT(arch=VIT, dtype='float32').half(),
        q_former=QFormer(num_queries=32),
        head=LinearProjector(768, WIDTH),
    )
    for name, part in parts.items():
        state = part.state_dict()
        save_file(state, folder / f'{name}.safetensors')
        torch.save({'model': state}, folder / f'{name}.pth')


def weight_bytes(folder: Path) -> int:
    """Bytes of all weights."""
    return sum(file.stat().st_size for file in folder.glob('*.safetensors'))


def ours(folder: Path) -> list:
    """Meta device, mapped file, assigned."""
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
    """The official constructor, re-stated.

    All is built and initialised in fp32: linear layers by PyTorch, then again
    by ``trunc_normal_`` or ``normal_``; of BERT also its words, its text
    layers and its head, which are then dropped. Files are read whole, copied
    into the modules, and the ViT is turned to fp16.
    """
    import torch
    from torch import nn

    from minigpt4.models import EVAViT, LinearProjector, QFormer

    def read(name: str) -> dict:
        return torch.load(folder / f'{name}.pth', map_location='cpu')['model']

    def draw(module: nn.Module, function: Callable) -> None:
        for part in module.modules():
            if isinstance(part, (nn.Linear, nn.Embedding)):
                function(part.weight, std=0.02)

    vit = EVAViT(arch=VIT, dtype='float32')
    nn.init.trunc_normal_(vit.pos_embed.data, std=0.02)
    nn.init.trunc_normal_(vit.cls_token.data, std=0.02)
    draw(vit, nn.init.trunc_normal_)
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
    draw(q_former, nn.init.normal_)
    draw(text, nn.init.normal_)
    del text
    q_former.load_state_dict(read('q_former'))
    head = LinearProjector(768, WIDTH)
    head.load_state_dict(read('head'))
    return [vit, q_former, head]


def memory() -> dict[str, int]:
    """Bytes of this process: all, the most so far, and not of files."""
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
    """Read a byte of each page of the weights."""
    for module in modules:
        for tensor in module.state_dict().values():
            tensor.detach().flatten().view(-1)[:: 4096 // 4].float().sum()


def digest(modules: list) -> str:
    """A digest of all tensors and their names and types."""
    found = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            found.update(f'{name} {tensor.dtype}'.encode())
            found.update(tensor.numpy().tobytes())
    return found.hexdigest()


def once(side: Callable, folder: Path, watched: bool = False) -> dict:
    """Build in a fork: seconds, or bytes and a digest of the tensors."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        before, start = memory(), time.process_time()
        unshared = [0]
        if watched:
            threading.Thread(
                target=watch, args=[unshared], daemon=True
            ).start()
        modules = side(folder)
        touch(modules)
        figures = dict(seconds=time.process_time() - start)
        if watched:
            figures['peak'] = memory()['peak'] - before['all']
            figures['anonymous'] = max(unshared) - before['anonymous']
            figures['digest'] = digest(modules)
        os.write(writer, json.dumps(figures).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer)


def watch(found: list[int]) -> None:
    """Note the bytes that no file backs, again and again."""
    while True:
        found.append(memory()['anonymous'])
        time.sleep(0.005)


def build(side: str, folder: Path):
    """A worker's work and guard."""
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
    """The rows: time, and memory of one repetition of its own."""
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
                peer_name='official, re-stated',
                rate=False,
                repeats=repeats,
            )
        ]
        found = [
            json.loads((folder / f'{side}.json').read_text()) for side in SIDES
        ]
    for figure, name, goal, at_most in (
        ('peak', 'peak memory', 3, 1.1),
        ('anonymous', 'peak of memory that no file backs', None, None),
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
                peer_name='official, re-stated',
                weight_bytes=weights,
            )
        )
    return rows


if __name__ == '__main__':
    harness.worker(lambda: build(sys.argv[1], Path(sys.argv[2])), warm_ups=0)
