# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Padding, positions and targets, checked on small examples."""

import pytest
import torch

from minigpt4.models.collator import Collator, build_inputs
from minigpt4.prompts import IMAGE_SLOT, TokenizedPrompt, get_template

# BOS, word, image, word, answer of two
LONG = TokenizedPrompt([1, 5, IMAGE_SLOT, 6, 7, 8], [False] * 4 + [True] * 2)
# BOS, answer of one, question, answer of one
SHORT = TokenizedPrompt([1, 9, 4, 3], [False, True, False, True])
OPEN = TokenizedPrompt([1, IMAGE_SLOT, 5], [False] * 3)


def test_right_padding():
    inputs = build_inputs([LONG, SHORT], num_image_tokens=2)
    # 8 and 3 are only targets, so they are never num_inputs
    assert inputs.token_ids.tolist() == [
        [1, 5, 0, 0, 6, 7],
        [1, 9, 4, 0, 0, 0],
    ]
    assert inputs.attention_mask.tolist() == [[1] * 6, [1] * 3 + [0] * 3]
    assert inputs.position_ids.tolist() == [
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2, 0, 0, 0],
    ]
    assert inputs.image_positions.tolist() == [2, 3]
    # the position before each target
    assert inputs.target_positions.tolist() == [4, 5, 6, 8]
    assert inputs.targets.tolist() == [7, 8, 9, 3]


def test_left_padding():
    inputs = build_inputs([SHORT, LONG, OPEN], 2, padding='left')
    assert inputs.token_ids.tolist() == [
        [0, 0, 0, 1, 9, 4],
        [1, 5, 0, 0, 6, 7],
        [0, 0, 1, 0, 0, 5],
    ]
    assert inputs.attention_mask.tolist() == [
        [0, 0, 0, 1, 1, 1],
        [1] * 6,
        [0, 0, 1, 1, 1, 1],
    ]
    assert inputs.position_ids.tolist() == [
        [0, 0, 0, 0, 1, 2],
        [0, 1, 2, 3, 4, 5],
        [0, 0, 0, 1, 2, 3],
    ]
    assert inputs.image_positions.tolist() == [8, 9, 15, 16]
    assert inputs.target_positions.tolist() == [3, 5, 10, 11]
    assert inputs.targets.tolist() == [9, 3, 7, 8]


def test_a_last_token_that_is_not_a_target_is_an_input():
    inputs = build_inputs([OPEN], 1)
    assert inputs.token_ids.tolist() == [[1, 0, 5]]
    assert inputs.targets.tolist() == []


def test_the_position_before_a_target_may_be_of_an_image():
    prompt = TokenizedPrompt([1, IMAGE_SLOT, 7, 8], [False, False, True, True])
    inputs = build_inputs([prompt], 3)
    assert inputs.image_positions.tolist() == [1, 2, 3]
    assert inputs.target_positions.tolist() == [3, 4]


@pytest.fixture
def collate(tiny_tokenizer):
    return Collator(tiny_tokenizer, get_template('vicuna_v0'), 3)


def test_a_pack_holds_several_sequences():
    inputs = build_inputs([SHORT, LONG, OPEN], 2, pack_length=20)
    # the longest first; 8 and 3 are only targets
    assert inputs.packed
    assert inputs.token_ids.tolist() == [
        [1, 5, 0, 0, 6, 7, 1, 0, 0, 5, 1, 9, 4]
    ]
    assert inputs.sequence_ids.tolist() == [[1] * 6 + [2] * 4 + [3] * 3]
    assert inputs.position_ids.tolist() == [
        [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 0, 1, 2]
    ]
    # images in the order of the prompts
    assert inputs.image_positions.tolist() == [2, 3, 7, 8]
    assert inputs.target_positions.tolist() == [10, 12, 4, 5]
    assert inputs.targets.tolist() == [9, 3, 7, 8]
    mask = inputs.block_mask()[0, 0].int()
    expected = torch.block_diag(
        *(torch.ones(n, n, dtype=torch.int).tril() for n in (6, 4, 3))
    )
    assert torch.equal(mask, expected)


def test_packs_are_filled_evenly():
    def prompts(*lengths):
        return [TokenizedPrompt([1] * n, [False] * n) for n in lengths]

    inputs = build_inputs(prompts(9, 2, 7, 3, 4, 5), 1, pack_length=10)
    assert inputs.token_ids.shape == (3, 11)
    assert (inputs.sequence_ids > 0).sum() == 30
    # a sequence longer than a pack makes the packs longer
    inputs = build_inputs(prompts(30, 2, 2), 1, pack_length=10)
    assert inputs.token_ids.shape == (1, 34)
    assert not build_inputs(prompts(30), 1, pack_length=10).packed


def test_no_sequence_attends_to_pads():
    inputs = build_inputs([LONG, SHORT], num_image_tokens=2)
    mask = inputs.block_mask()[1, 0]
    assert mask[:3, 3:].sum() == 0
    assert mask.any(dim=1).all()


def test_the_common_prefix_is_omitted():
    prompts = [
        TokenizedPrompt([1, 5, 6, IMAGE_SLOT, 7, 8], [False] * 4 + [True] * 2),
        TokenizedPrompt([1, 5, 6, IMAGE_SLOT, 9, 8], [False] * 4 + [True] * 2),
    ]
    inputs = build_inputs(prompts, 2, share_prefix=True)
    assert inputs.prefix == (1, 5, 6)
    assert inputs.token_ids.tolist() == [[0, 0, 7], [0, 0, 9]]
    assert inputs.position_ids.tolist() == [[3, 4, 5], [3, 4, 5]]
    assert inputs.image_positions.tolist() == [0, 1, 3, 4]
    assert inputs.target_positions.tolist() == [1, 2, 4, 5]
    assert inputs.targets.tolist() == [7, 8, 9, 8]


@pytest.mark.parametrize(
    'prompts, prefix',
    [
        ([LONG, LONG], (1, 5)),
        ([LONG, OPEN], (1,)),
        # the token before a target stays an input
        ([SHORT, SHORT], ()),
        ([TokenizedPrompt([1, 2, 3], [False, False, True])] * 2, (1,)),
        # a prompt without a target keeps its last token
        ([TokenizedPrompt([1, 2, 3], [False] * 3)] * 2, (1, 2)),
        ([TokenizedPrompt([1], [False])], ()),
    ],
)
def test_the_end_of_the_common_prefix(prompts, prefix):
    assert build_inputs(prompts, 2, share_prefix=True).prefix == prefix


@pytest.mark.parametrize('size', [1, 2, 3, 4, None])
def test_pieces_together_are_the_batch(collate, mixed_samples, size):
    (complete,) = collate(mixed_samples)['pieces']
    collate.micro_batch_size = size
    batch = collate(mixed_samples)
    pieces, size = batch['pieces'], size or 4
    assert [len(p['inputs'].token_ids) for p in pieces] == [
        min(size, 4 - i) for i in range(0, 4, size)
    ]
    assert torch.equal(
        torch.cat([p['inputs'].targets for p in pieces]),
        complete['inputs'].targets,
    )
    assert torch.equal(
        torch.cat([p['images'] for p in pieces if p['images'] is not None]),
        complete['images'],
    )
    for piece in pieces:
        number = 0 if piece['images'] is None else len(piece['images'])
        assert len(piece['inputs'].image_positions) == number * 3
    if size == 1:
        assert pieces[1]['images'] is None
        assert torch.equal(
            pieces[2]['images'], torch.stack(mixed_samples[2].images)
        )
    assert batch['counts']['samples'] == 4
    # all tokens are inputs but those that are only targets
    num_inputs = sum(int(p['inputs'].attention_mask.sum()) for p in pieces)
    assert batch['counts']['tokens'] == num_inputs + 4


def test_tokenize_renders_the_template(collate, make_sample, tiny_tokenizer):
    prompt = collate.tokenize(make_sample([0], 'what', 'red'))

    def ids(text):
        return tiny_tokenizer(text, add_special_tokens=False).input_ids

    answer = ids('red###')
    assert prompt.ids == [
        1,
        *ids('###Human: <Img>'),
        IMAGE_SLOT,
        *ids('</Img> what ###Assistant: '),
        *answer,
    ]
    assert prompt.supervised.count(True) == len(answer)


def test_an_image_of_a_later_turn_stays_there(collate, make_sample):
    prompt = collate.tokenize(
        make_sample([0], 'what', 'red', '<ImageHere> is')
    )
    assert prompt.num_images == 1
    assert prompt.ids.index(IMAGE_SLOT) > prompt.supervised.index(True)


def test_image_slots_must_match_images(collate, make_sample):
    with pytest.raises(
        ValueError,
        match=r'2 image slots .* but 1 images were given \(sample s7\)',
    ):
        collate([make_sample([0], '<ImageHere><ImageHere>', 'a', id='s7')])
    with pytest.raises(ValueError, match='1 image slots in the prompt but 2'):
        collate([make_sample([0, 1], '<ImageHere>', 'a')])
    with pytest.raises(ValueError, match='1 image slots in the prompt but 0'):
        collate([make_sample([], '<ImageHere>', 'a')])


def test_unreadable_samples_are_counted(collate, mixed_samples):
    batch = collate([None, *mixed_samples, None])
    expected = collate(mixed_samples)
    assert batch['counts'] == dict(expected['counts'], skipped=2)
    got, expected = (
        batch['pieces'][0]['inputs'],
        expected['pieces'][0]['inputs'],
    )
    for mine, theirs in zip(got[:6], expected[:6], strict=True):
        assert torch.equal(mine, theirs)


def test_a_batch_without_a_readable_sample(collate, tiny_tokenizer):
    nothing = dict(samples=0, tokens=0, skipped=2, truncated=0)
    assert collate([None, None]) == dict(pieces=[], counts=nothing)
    left = Collator(
        tiny_tokenizer, get_template('vicuna_v0'), 3, padding='left'
    )
    assert left([None, None]) == dict(
        images=None, inputs=None, samples=[], counts=nothing
    )


def test_truncated_answers_are_counted(tiny_tokenizer, mixed_samples):
    template = get_template('vicuna_v0')
    complete = Collator(tiny_tokenizer, template, 3)(mixed_samples)
    cut = Collator(tiny_tokenizer, template, 3, max_text_length=1)(
        mixed_samples
    )
    # an answer with its end symbol has two tokens at least
    assert complete['counts']['truncated'] == 0
    assert cut['counts']['truncated'] == 5
    assert len(cut['pieces'][0]['inputs'].targets) == 5


def test_samples_are_returned_for_generation_only(
    tiny_tokenizer, mixed_samples
):
    template = get_template('vicuna_v0')
    left = Collator(tiny_tokenizer, template, 3, padding='left')
    assert left([None, *mixed_samples])['samples'] == mixed_samples
    right = Collator(tiny_tokenizer, template, 3)
    assert 'samples' not in right(mixed_samples)


def test_samples_longer_than_the_context_are_skipped(
    tiny_tokenizer, mixed_samples, log
):
    template = get_template('vicuna_v0')
    complete = Collator(tiny_tokenizer, template, 3)
    lengths = [
        complete.length(complete.tokenize(sample)) for sample in mixed_samples
    ]
    limit = sorted(lengths)[1]
    cut = Collator(tiny_tokenizer, template, 3, max_length=limit)
    counts = cut(mixed_samples)['counts']
    accepted = [length for length in lengths if length <= limit]
    assert 0 < len(accepted) < len(lengths)
    assert counts['tokens'] == sum(accepted)
    assert counts['skipped'] == len(lengths) - len(accepted)
    (line, *_) = [line for line in log if 'skipped: sample' in line]
    assert f'has {next(n for n in lengths if n > limit)} tokens' in line
