# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Score the nano LLM on scenes given as words, without any image.

    python tools/nano_llm_scores.py [--llm FOLDER] [--noise X] [--reworded]

The scores are the most that a projection can reach with it.
"""

import argparse
import json
import sys
from pathlib import Path

from minigpt4.utils.errors import add_debug_option, reports_errors
from minigpt4_cli.options import positive_int

ROOT = Path(__file__).parents[1]


@reports_errors
def main() -> None:
    """Print the scores as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--llm',
        type=Path,
        default=ROOT / 'projects/minigpt4/nano/weights/llm',
        help='its folder (default: the shipped one)',
    )
    parser.add_argument('--scenes', type=positive_int, default=500)
    parser.add_argument(
        '--noise',
        type=float,
        default=0.0,
        help='noise on the embeddings of the words, in their standard '
        'deviations (default: %(default)s)',
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--reworded',
        action='store_true',
        help='ask in other wordings, typed in the ways of users',
    )
    add_debug_option(parser)
    args = parser.parse_args()
    if not args.llm.exists():  # transformers would ask the hub for it
        raise FileNotFoundError(
            f'the folder {args.llm} does not exist; give that of a nano LLM.'
        )
    import sentencepiece
    import torch
    from transformers import LlamaForCausalLM

    from minigpt4.nano.llm_scores import score_llm
    from minigpt4.weights.check_llm_folder import check_folder

    check_folder(args.llm)
    llm = LlamaForCausalLM.from_pretrained(args.llm, dtype=torch.float32)
    tokenizer = sentencepiece.SentencePieceProcessor(
        model_file=str(args.llm / 'tokenizer.model')
    )
    scores = score_llm(
        llm.eval(),
        tokenizer,
        args.scenes,
        args.noise,
        args.seed,
        args.reworded,
    )
    print(json.dumps(scores, indent=1))


if __name__ == '__main__':
    sys.exit(main())
