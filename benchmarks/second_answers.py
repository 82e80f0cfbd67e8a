# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""First and second answers of a conversation with the nano model.

```shell
python benchmarks/second_answers.py
```

Asks for a description, a poem or a count of a held-out scene, then for
another of them, and prints the share of right answers.
"""

import argparse
import itertools
import random
import tempfile
from pathlib import Path

from minigpt4 import get_model
from minigpt4.chat.session import ChatSession
from minigpt4.loading import quiet_logs
from minigpt4.nano import grammar
from minigpt4.nano.world import render, sample_scene

TASKS = {
    'description': ('Describe this image in detail.', grammar.description),
    'count': ('How many shapes are there?', grammar.count),
    'poem': ('Write a poem.', grammar.poem),
}


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--scenes', type=int, default=40)
    parser.add_argument('--seed', type=int, default=3)
    args = parser.parse_args(argv)
    with quiet_logs():
        model = get_model('minigpt-4_nano_caption', device='cpu').eval()
    rng = random.Random(args.seed)
    right = dict.fromkeys(itertools.permutations(TASKS, 2), (0, 0))
    with tempfile.TemporaryDirectory() as folder:
        for i in range(args.scenes):
            scene = sample_scene(rng, held_out=True)
            image = Path(folder) / f'{i}.png'
            render(scene, rng).save(image)
            for tasks, counts in right.items():
                session, found = ChatSession(model), []
                for task, images in zip(tasks, ([image], []), strict=True):
                    asked, answer = TASKS[task]
                    for _ in session.ask(asked, images):
                        pass
                    found.append(session.turns[-1].answer == answer(scene))
                right[tasks] = (counts[0] + found[0], counts[1] + found[1])
    for (first, second), counts in right.items():
        shares = [f'{count / args.scenes:.3f}' for count in counts]
        print(f'{first} {shares[0]}, then {second} {shares[1]}')


if __name__ == '__main__':
    main()
