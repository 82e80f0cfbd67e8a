# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""How often the image token that a word needs has the most attention.

```shell
python benchmarks/explain_agreement.py data/nano/test/image/{0..19}.jpg
```

Counts the words whose loss grows by at least ``--nats`` without one image
token. For each the token without which it grows most is compared with the
attention of the word and with the token's nearest word of the vocabulary.
"""

import argparse

from minigpt4 import get_model
from minigpt4.captioning.inferencer import make_sample
from minigpt4.explain.explanation import explain
from minigpt4.loading import quiet_logs


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('images', nargs='+', metavar='IMAGE')
    parser.add_argument('--model', default='minigpt-4_nano_caption')
    parser.add_argument('--nats', type=float, default=1.0)
    parser.add_argument('--max-new-tokens', type=int, default=64)
    args = parser.parse_args(argv)
    with quiet_logs():
        model = get_model(args.model, device='cpu').eval()
    words = without_image = most = first_three = nearest = 0
    for image in args.images:
        sample = make_sample([image], model.prompt, args.max_new_tokens)
        found = explain(model, sample)
        attention = found.to_json()['words']['attention']
        for word, increase, alone, attended in zip(
            found.answer.words,
            found.losses.increase,
            found.losses.increase_without_image,
            attention,
            strict=True,
        ):
            without_image += bool(alone >= args.nats)
            if increase.max() < args.nats:
                continue
            needed = int(increase.argmax())
            order = sorted(range(len(attended)), key=lambda i: -attended[i])
            words += 1
            most += order[0] == needed
            first_three += needed in order[:3]
            nearest += found.near_words[needed][0].text == word.text
    print(
        f'{len(args.images)} images. Words that lose at least {args.nats:g} '
        f'nats without one image token: {words}; without all: {without_image}'
    )
    print(f'the needed token has the most attention: {most}')
    print(f'it is among the first three: {first_three}')
    print(f'its nearest word is the word: {nearest}')


if __name__ == '__main__':
    main()
