# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The evaluation: questions about 256 images of the nano world.

The run of a question protocol stores the answers in a result folder; the
peer is the engine alone, as for the curation's step "describe". Answers have
48 tokens.

    python benchmarks/evaluation.py SIDE FOLDER
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import curation
import harness

PROMPT = 'Is there a red circle in the image?'
GREEDY = dict(do_sample=False, repetition_penalty=1.0)


def questions(folder: Path) -> Callable:
    """The run of a protocol, in a new folder for each repetition."""
    import minigpt4
    from minigpt4.evaluation.question_run import answer_questions
    from minigpt4.evaluation.questions import AskedQuestion, Question
    from minigpt4.evaluation.result_folder import ResultFolder

    model = minigpt4.get_model('minigpt-4_nano_caption', device='cpu').eval()
    asked = [
        (
            number,
            AskedQuestion(
                Question(number, path.name, PROMPT, dict(label='yes')),
                str(path),
                PROMPT,
            ),
        )
        for number, path in enumerate(sorted(folder.glob('*.png')))
    ]
    settings = dict(
        GREEDY, min_new_tokens=curation.TOKENS, max_new_tokens=curation.TOKENS
    )

    def work() -> list[str]:
        with (
            tempfile.TemporaryDirectory() as temporary,
            ResultFolder(
                Path(temporary), 'pope', {}, 'answers.jsonl'
            ) as found,
        ):
            for rows in answer_questions(
                lambda: model, asked, curation.SLOTS, 1, settings
            ):
                found.add(rows)
            rows = sorted(found.rows, key=lambda row: row['number'])
            return [row['answer'] for row in rows]

    return work


def build_worker(side: str, folder: Path) -> tuple[Callable, dict]:
    """The work of a side, and its texts."""
    if side == 'questions':
        work = questions(folder)
    else:
        work = curation.engine(folder, PROMPT, **GREEDY)
    texts = work()

    def repeat() -> None:
        work()

    return repeat, dict(texts=texts)


def measure(repeats: int) -> Iterator[dict]:
    """The row."""
    with tempfile.TemporaryDirectory() as temporary:
        curation.draw(Path(temporary))
        yield harness.compare(
            'evaluation questions',
            *(
                harness.side('evaluation.py', side, temporary)
                for side in ('questions', 'engine')
            ),
            'images/CPU-s',
            0.9,
            peer_name='the engine alone',
            per=curation.IMAGES,
            repeats=repeats,
        )


if __name__ == '__main__':
    harness.worker(lambda: build_worker(sys.argv[1], Path(sys.argv[2])))
