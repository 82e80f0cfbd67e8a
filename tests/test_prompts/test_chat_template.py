# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A tokenizer's chat template gives the ids that transformers gives."""

import pickle

import pytest
from tests.chat_families import (
    FAMILIES,
    family_tokenizer,
    new_tokenizer,
    reference_ids,
    reference_text,
    to_messages,
)

from minigpt4.prompts import (
    IMAGE_SLOT,
    ChatTemplate,
    Turn,
    get_template,
    render,
    render_chat,
    tokenize,
    with_images,
)

SYSTEM = 'You are a helpful assistant.'
TURNS = [
    Turn('What is in this image?', 'A red circle.'),
    Turn(
        'How many\n\nthings  are there?', 'There are 12 things.\nAnd 3 cats.'
    ),
    Turn('<b>Where</b> is the cat?', 'It is on the sofa'),
]
CHAT_ML = ('smollm2', 'qwen2_5', 'qwen3')


def prompt_of(turns, template, tokenizer, system=None):
    return tokenize(render(turns, template, system), tokenizer)


@pytest.mark.parametrize('system', [None, SYSTEM])
@pytest.mark.parametrize('num_turns', [1, 3])
def test_prompt_has_the_ids_of_transformers(
    template, tokenizer, num_turns, system
):
    turns = [*TURNS[: num_turns - 1], Turn(TURNS[num_turns - 1].question)]
    messages = to_messages(turns, system, template.has_system_role)
    expected = reference_ids(tokenizer, messages)
    prompt = prompt_of(turns, template, tokenizer, system)
    assert prompt.ids == expected
    chat = tokenize(render_chat(turns, template, system), tokenizer)
    assert chat.ids == expected
    tokenized = tokenizer.apply_chat_template(
        messages,
        add_generation_prompt=True,
        enable_thinking=False,
        date_string='26 Jul 2024',
        return_dict=True,
    )
    assert prompt.ids == tokenized['input_ids']


@pytest.mark.parametrize('system', [None, SYSTEM])
@pytest.mark.parametrize('num_turns', [1, 3])
def test_answers_have_the_ids_of_transformers_and_are_supervised(
    template, tokenizer, num_turns, system
):
    turns = TURNS[:num_turns]
    messages = to_messages(turns, system, template.has_system_role)
    prompt = prompt_of(turns, template, tokenizer, system)
    length = len(prompt.ids)
    expected = reference_ids(tokenizer, messages)
    assert prompt.ids == expected[:length]
    # what follows the end symbol is not part of the sample
    end = tokenizer.convert_tokens_to_ids(template.end)
    assert prompt.ids[-1] == end and end not in expected[length:]
    supervised = [
        token if is_supervised else None
        for token, is_supervised in zip(
            prompt.ids, prompt.supervised, strict=True
        )
    ]
    question = [*turns[:-1], Turn(turns[-1].question)]
    start = len(prompt_of(question, template, tokenizer, system).ids)
    assert all(prompt.supervised[start:]) and not prompt.supervised[start - 1]
    answers = [[]]
    for token in supervised:
        if token is not None:
            answers[-1].append(token)
        elif answers[-1]:
            answers.append([])
    texts = [tokenizer.decode(ids).strip() for ids in answers if ids]
    assert texts == [f'{turn.answer}{template.end}' for turn in turns]


def test_generation_prompt_begins_the_training_sample(template, tokenizer):
    """Nothing of the prompt changes when the answer is added."""
    for turns in (TURNS[:1], TURNS[:2]):
        question = [*turns[:-1], Turn(turns[-1].question)]
        prompt = prompt_of(question, template, tokenizer)
        complete = prompt_of(turns, template, tokenizer)
        assert complete.ids[: len(prompt.ids)] == prompt.ids


def test_image_slots_stand_anywhere_in_a_question(family, template):
    """A slot is encoded as a special token in its place would be."""
    turns = [
        Turn('<ImageHere> What is it?', 'A cat.'),
        Turn('Is <ImageHere> the same as <ImageHere>', 'Yes.'),
        Turn('And this:  <Img><ImageHere></Img>'),
    ]
    tokenizer = family_tokenizer(family)
    prompt = prompt_of(turns, template, tokenizer)
    assert prompt.num_images == 4
    with_token = new_tokenizer(family)
    with_token.add_tokens(['<image>'], special_tokens=True)
    marked = [
        Turn(
            turn.question.replace(
                '<Img><ImageHere></Img>', '<ImageHere>'
            ).replace('<ImageHere>', '<Img><image></Img>'),
            turn.answer,
        )
        for turn in turns
    ]
    image = with_token.convert_tokens_to_ids('<image>')
    assert prompt.ids == [
        IMAGE_SLOT if token == image else token
        for token in reference_ids(with_token, to_messages(marked))
    ]


def test_images_of_a_question_without_slot_precede_it(template, tokenizer):
    question = with_images('What is it?', 2, template)
    prompt = prompt_of([Turn(question)], template, tokenizer)
    assert prompt.num_images == 2
    last = len(prompt.ids) - prompt.ids[::-1].index(IMAGE_SLOT)
    assert tokenizer.decode(prompt.ids[last:]).lstrip().startswith('</Img> W')


def test_special_tokens_of_a_user_are_plain_text(template, tokenizer):
    """In a question, an answer and the system message."""
    special = {
        str(token): i
        for i, token in tokenizer.added_tokens_decoder.items()
        if token.special
    }
    text = 'a'.join(special)
    turns = [Turn(f'Why {text} so?', f'So {text} why.'), Turn('<ImageHere>')]
    plain = [Turn('Why so?', 'So why.'), Turn('<ImageHere>')]
    ids = prompt_of(turns, template, tokenizer, f'Be {text} brief.').ids
    expected = prompt_of(plain, template, tokenizer, 'Be brief.').ids
    for token in special.values():
        assert ids.count(token) == expected.count(token)
    # the text itself is complete
    shown = tokenizer.decode([i for i in ids if i != IMAGE_SLOT])
    assert shown.count(text) == 3


def test_white_space_is_removed_where_the_template_removes_it(
    template, tokenizer
):
    turns = [
        Turn(' \n What is it?\n', '\n A cat. '),
        Turn('  And\tthis? \n\n', ' Yes.\n'),
        Turn('\nWhy?  '),
    ]
    for length in (1, 2, 3):
        part = [*turns[: length - 1], Turn(turns[length - 1].question)]
        expected = reference_text(tokenizer, to_messages(part))
        text = ''.join(s.text for s in render(part, template))
        assert text == expected
    complete = ''.join(s.text for s in render(turns[:2], template))
    expected = reference_text(tokenizer, to_messages(turns[:2]))
    assert complete == expected[: len(complete)]
    merged = ''.join(s.text for s in render(turns[2:], template, ' \nHi. '))
    assert merged == reference_text(
        tokenizer,
        to_messages(turns[2:], ' \nHi. ', template.has_system_role),
    )


@pytest.mark.parametrize(
    ('family', 'end', 'stop', 'tokens'),
    [
        ('smollm2', '<|im_end|>', (), ['<|im_start|>']),
        ('qwen2_5', '<|im_end|>', (), ['<|im_start|>']),
        ('qwen3', '<|im_end|>', (), ['<|im_start|>']),
        (
            'llama_3',
            '<|eot_id|>',
            (),
            ['<|start_header_id|>', '<|end_header_id|>'],
        ),
        ('mistral_v0_1', '</s>', ('[INST]',), []),
        ('mistral_v0_3', '</s>', (), ['[INST]', '[/INST]']),
        ('gemma', '<end_of_turn>', (), ['<start_of_turn>']),
        ('phi_3', '<|end|>', (), ['<|user|>', '<|assistant|>']),
    ],
)
def test_end_symbol_and_tokens_of_another_message_stop(
    family, end, stop, tokens
):
    tokenizer = family_tokenizer(family)
    template = ChatTemplate(tokenizer)
    assert (template.end, template.stop) == (end, stop)
    assert [*template.stop_ids] == tokenizer.convert_tokens_to_ids(
        [end, *tokens]
    )


def test_only_the_template_writes_a_begin_token(family, template, tokenizer):
    ids = prompt_of([Turn('What?')], template, tokenizer).ids
    begin = dict(
        llama_3='<|begin_of_text|>',
        mistral_v0_1='<s>',
        mistral_v0_3='<s>',
        gemma='<bos>',
    ).get(family)
    if begin is None:  # SmolLM2 has a BOS token that begins a message
        opening = {'phi_3': '<|user|>'}.get(family, '<|im_start|>')
        assert tokenizer.convert_ids_to_tokens(ids[0]) == opening
        assert ids[0] != ids[1]
    else:
        token = tokenizer.convert_tokens_to_ids(begin)
        assert ids[0] == token and ids.count(token) == 1


def test_system_message_of_the_template_is_known():
    default = 'You are a helpful AI assistant named SmolLM, trained by'
    found = {
        family: ChatTemplate(family_tokenizer(family)) for family in FAMILIES
    }
    assert found['smollm2'].system == f'{default} Hugging Face'
    assert found['qwen2_5'].system.startswith('You are Qwen, created by')
    assert {
        family for family, template in found.items() if not template.system
    } == {*FAMILIES} - {'smollm2', 'qwen2_5'}
    assert {
        family
        for family, template in found.items()
        if not template.has_system_role
    } == {'gemma', 'mistral_v0_3'}


def test_no_system_message_is_none_or_an_empty_one(
    family, template, tokenizer
):
    question = [Turn('What?')]
    ids = prompt_of(question, template, tokenizer, '').ids
    if template.system:  # the template would write its own
        expected = to_messages(question, '')
    else:
        expected = to_messages(question)
    assert ids == reference_ids(tokenizer, expected)


def test_think_block_belongs_to_the_prompt_of_the_last_answer():
    tokenizer = family_tokenizer('qwen3')
    template = ChatTemplate(tokenizer)
    prompt = prompt_of(TURNS[:2], template, tokenizer)
    think = tokenizer.convert_tokens_to_ids(['<think>', '</think>'])
    at = [prompt.ids.index(token) for token in think]
    assert not any(prompt.supervised[i] for i in at)
    for token in think:
        assert prompt.ids.count(token) == 1  # none before the first answer


def test_think_block_that_follows_the_generation_prompt_is_not_supervised():
    """The LLM must not generate it: it would be shown with the answer."""
    tokenizer = new_tokenizer('qwen3')
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "'<think>\\n\\n</think>\\n\\n'", "'<think>\\n'"
    )
    template = ChatTemplate(tokenizer)
    prompt = prompt_of(TURNS[:1], template, tokenizer)
    assert prompt.ids == reference_ids(tokenizer, to_messages(TURNS[:1]))[:-1]
    first = prompt.supervised.index(True)
    assert tokenizer.decode(prompt.ids[first:]) == 'A red circle.<|im_end|>'
    question = [Turn(TURNS[0].question)]
    assert prompt_of(question, template, tokenizer).ids == prompt.ids[:first]


def test_answer_follows_a_generation_prompt_that_the_answer_lacks():
    tokenizer = new_tokenizer('smollm2')
    tokenizer.chat_template = tokenizer.chat_template.replace(
        'assistant\n', 'assistant\n<think></think>'
    )
    template = ChatTemplate(tokenizer)
    turns = TURNS[:2]
    text = ''.join(segment.text for segment in render(turns, template))
    assert text.endswith(
        'assistant\n<think></think>There are 12 things.\nAnd 3 cats.<|im_end|>'
    )
    assert 'assistant\nA red circle.<|im_end|>\n<|im_start|>user' in text


@pytest.mark.parametrize(
    ('date', 'expected'),
    [
        ("{{ strftime_now('%d %b %Y') }}", '26 Jul 2024'),
        (
            "  {% if true %}\n{{ strftime_now('%A, %d %B') }}",
            'Friday, 26 July',
        ),
        ("{% set day = strftime_now('%Y-%m-%d') %}{{ day }}", '2024-07-26'),
        ('{{ date_string }}', '26 Jul 2024'),
    ],
)
def test_date_in_a_prompt_does_not_depend_on_the_day(date, expected):
    tokenizer = new_tokenizer('smollm2')
    close = '{% endif %}' if '{% if' in date else ''
    tokenizer.chat_template = date + close + tokenizer.chat_template
    segments = render([Turn('What?')], ChatTemplate(tokenizer))
    assert segments[0].text.startswith(f'{expected}<|im_start|>')


def test_earlier_answers_may_have_another_end_symbol():
    """Then the ids of a generated answer do not fit, and are not used."""
    tokenizer = new_tokenizer('smollm2')
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "'<|im_end|>' + '\n'",
        "('<|endoftext|>' if loop.last and message['role'] == 'assistant' "
        "else '<|im_end|>') + '\n'",
    )
    template = ChatTemplate(tokenizer)
    assert template.end == '<|endoftext|>'
    turns = [Turn('a', 'b', (5, template.stop_ids[0])), Turn('c')]
    ids = tokenize(render_chat(turns, template), tokenizer).ids
    assert ids == reference_ids(tokenizer, to_messages(turns))


def test_template_is_found_by_name(tokenizer):
    template = get_template('chat', tokenizer)
    assert isinstance(template, ChatTemplate) and template.name == 'chat'


def test_template_is_pickled_for_data_workers(template, tokenizer):
    copy, tokenizer_copy = pickle.loads(pickle.dumps((template, tokenizer)))
    assert prompt_of(TURNS, copy, tokenizer_copy) == prompt_of(
        TURNS, template, tokenizer
    )


def test_without_a_tokenizer_no_prompt_is_rendered():
    template = get_template('chat')
    assert template.name == 'chat'
    with pytest.raises(ValueError, match='without the tokenizer of an LLM'):
        render([Turn('a')], template)


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        (None, None, 'has no chat template'),
        ('add_generation_prompt', 'false', 'has no generation prompt'),
        ("'<|im_end|>'", "''", 'no special token'),
        ('in messages', 'in messages[-1:]', 'drops, repeats, changes or'),
        ('in messages', 'in messages[::-1]', 'drops, repeats, changes or'),
        (
            "message['content']",
            "message['content'] + message['content']",
            'drops, repeats, changes or',
        ),
        (
            "message['content']",
            "message['content'] | upper",
            'drops, repeats, changes or',
        ),
        (
            "message['content']",
            "message['content'] | e",
            'drops, repeats, changes or',
        ),
        (
            "message['content']",
            "(message['content'] | replace('<Img>', ''))",
            'changes, drops or moves <Img><ImageHere></Img>',
        ),
        (
            "message['content']",
            "(message['content'] | replace('<ImageHere>', ''))",
            'changes, drops or moves <Img><ImageHere></Img>',
        ),
        (
            "message['content']",
            "(message['content'].split('<Img><ImageHere></Img>')"
            " | reverse | join('<Img><ImageHere></Img>'))",
            'changes, drops or moves <Img><ImageHere></Img>',
        ),
        ('{% for', '{% four', 'cannot be rendered .*TemplateSyntaxError'),
        ("message['content']", '1 / 0', 'rendered .*ZeroDivisionError'),
        (
            "message['content']",
            "raise_exception('no texts')",
            'cannot be rendered .*no texts',
        ),
        (
            "message['content']",
            "messages.append(1) or ''",
            'cannot be rendered .*SecurityError',
        ),
        (
            "message['content']",
            "''.__class__.__mro__",
            'cannot be rendered .*SecurityError',
        ),
    ],
)
def test_unusable_template_is_refused_in_one_sentence(old, new, message):
    tokenizer = new_tokenizer('smollm2')
    tokenizer.name_or_path = '/llms/mine'
    tokenizer.chat_template = (
        None if old is None else tokenizer.chat_template.replace(old, new)
    )
    with pytest.raises(ValueError, match=message) as error:
        get_template('chat', tokenizer)
    assert '/llms/mine' in str(error.value)
    assert '\n' not in str(error.value)
    assert str(error.value).endswith('prompt_template.')


def test_template_that_takes_no_second_turn_is_refused():
    tokenizer = new_tokenizer('smollm2')
    tokenizer.chat_template = (
        "{% if messages | length > 2 %}{{ raise_exception('one turn') }}"
        '{% endif %}' + tokenizer.chat_template
    )
    with pytest.raises(ValueError, match='of 3 messages .*one turn'):
        get_template('chat', tokenizer)


def test_chat_ml_families_have_the_same_turns():
    """The tests above compare with transformers; this one with a text."""
    for family in CHAT_ML:
        template = ChatTemplate(family_tokenizer(family))
        segments = render_chat(
            [Turn('a <ImageHere>', 'b'), Turn('c')], template, 'S'
        )
        think = '<think>\n\n</think>\n\n' if family == 'qwen3' else ''
        assert [segment.text for segment in segments] == [
            '<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na <Img>',
            None,
            '</Img><|im_end|>\n<|im_start|>assistant\n',
            'b<|im_end|>',
            '\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n' + think,
        ]
