# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The engine gives the answers of transformers, for any mix of requests."""

import logging
import string
import threading

import pytest
import torch
from mmengine.logging import MMLogger

from minigpt4.generation.api import rank
from minigpt4.generation.engine import Engine
from minigpt4.generation.hf_generate import hf_generate
from minigpt4.models.packing import build_inputs
from minigpt4.prompts import TokenizedPrompt


def make_prompts(model, make_sample):
    """Prompts and images of several lengths: images 1, 0, 2, 1, 1."""
    samples = [
        make_sample([0], 'describe this image in detail'),
        make_sample([], 'what is the colour of a small circle on a square'),
        make_sample([1, 2], '<ImageHere> or <ImageHere>'),
        make_sample([3], 'what', 'the red circle', 'a blue square'),
        make_sample([4], ''),
    ]
    collator = model.collator(training=False)
    return [(collator.tokenize(sample), sample.images) for sample in samples]


@pytest.fixture
def prompts(tiny_model, make_sample):
    return make_prompts(tiny_model, make_sample)


@torch.no_grad()
def answer_with_transformers(model, prompt, images, **settings):
    """The answer of transformers' generate to a prompt alone in its batch."""
    inputs = build_inputs([prompt], model.neck.num_tokens, 'left')
    pixels = None
    if images:
        pixels = model.data_preprocessor.normalize(torch.stack(images))
    (answer,) = hf_generate(
        model.decoder.llm,
        model.decoder.tokenizer,
        model.embed_inputs(pixels, inputs),
        inputs.attention_mask,
        model.template.stop,
        **settings,
    )
    return answer


@pytest.fixture
def logged():
    """List of the messages logged during the test, of any level."""
    lines = []
    handler = logging.Handler(logging.NOTSET)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def run_all(engine):
    while engine.step():
        pass


def ids_of(answers):
    # incomplete characters, which a random LLM generates, differ in the text
    return [(answer.token_ids, answer.finished) for answer in answers]


class Failing:
    """A sampler, or a method of the runner, that fails."""

    is_greedy = False

    def __call__(self, *_, **__):
        raise MemoryError('too much')


SMALL = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    initializer_range=0.3,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
LLMS = {
    'llama': dict(model_type='llama', tie_word_embeddings=False),
    'llama with groups': dict(model_type='llama', num_key_value_heads=2),
    'llama with biases': dict(model_type='llama', attention_bias=True),
    'opt': dict(model_type='opt', ffn_dim=48, word_embed_proj_dim=32),
    'gpt2': dict(model_type='gpt2', n_embd=32, n_layer=2, n_head=4),
    'gpt_neox': dict(model_type='gpt_neox'),
    'gemma': dict(model_type='gemma', num_key_value_heads=1, head_dim=8),
    'phi3': dict(model_type='phi3', num_key_value_heads=2),
    'llama with dynamic rope': dict(
        model_type='llama',
        rope_scaling=dict(rope_type='dynamic', factor=2.0),
    ),
    # transformers generates these
    'mistral with a window': dict(
        model_type='mistral', sliding_window=8, num_key_value_heads=2
    ),
    'falcon with alibi': dict(model_type='falcon', alibi=True),
}
FAST = {'llama', 'llama with groups'}
LEFT_TO_TRANSFORMERS = {'mistral with a window', 'falcon with alibi'}


@pytest.fixture(params=LLMS)
def any_model(request, build_tiny, make_llm, tiny_tokenizer):
    sizes = dict(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    folder = make_llm(**sizes | LLMS[request.param])
    return build_tiny(decoder=dict(name_or_path=str(folder)))


def test_answers_match_transformers(any_model, make_sample, request, log):
    name = request.node.callspec.params['any_model']
    prompts = make_prompts(any_model, make_sample)
    engine = Engine(any_model, slots=3)
    runner = engine.runner
    if name != 'gpt2':  # transformers below 4.50 gives it no cache object
        supported = name not in LEFT_TO_TRANSFORMERS
        assert runner.supports_kv_slots == supported
        assert any('in slots' in line for line in log) != supported
    assert runner.uses_fast_decoder == (name in FAST)
    requests = [engine.submit(*prompt, max_new_tokens=6) for prompt in prompts]
    run_all(engine)
    expected = [
        answer_with_transformers(any_model, *prompt, max_new_tokens=6)
        for prompt in prompts
    ]
    assert ids_of(r.answer() for r in requests) == ids_of(expected)


def test_families_match_transformers(family_model, make_sample):
    """In one batch of prompts of several lengths, in fp32."""
    model = family_model
    prompts = make_prompts(model, make_sample)
    engine = Engine(model, slots=len(prompts))
    assert engine.runner.uses_fast_decoder
    requests = [engine.submit(*prompt, max_new_tokens=9) for prompt in prompts]
    run_all(engine)
    assert engine.runner.stats.decode_passes == 8
    expected = [
        answer_with_transformers(model, *prompt, max_new_tokens=9)
        for prompt in prompts
    ]
    assert ids_of(r.answer() for r in requests) == ids_of(expected)


@pytest.mark.parametrize(
    'config, reason',
    [
        (
            dict(model_type='gpt_neox', **SMALL),
            'on the KV slots (its architecture is gpt_neox)',
        ),
        (
            dict(model_type='llama', attention_bias=True, **SMALL),
            'on the KV slots (its self_attn.o_proj has a bias)',
        ),
        (
            dict(
                model_type='mistral',
                sliding_window=8,
                max_position_embeddings=64,
                **SMALL,
            ),
            'cannot keep keys and values in slots (its sliding window of 8 '
            'tokens is smaller than its context of 64)',
        ),
        (
            dict(
                model_type='qwen2',
                use_sliding_window=True,
                sliding_window=8,
                max_window_layers=1,
                max_position_embeddings=64,
                **SMALL,
            ),
            'its sliding window of 8 tokens is smaller than its context',
        ),
    ],
)
def test_other_llms_are_reported_once(
    build_tiny, make_llm, tiny_tokenizer, config, reason, logged
):
    folder = make_llm(vocab_size=len(tiny_tokenizer), **config)
    model = build_tiny(decoder=dict(name_or_path=str(folder)))
    for _ in range(2):
        assert not Engine(model).runner.uses_fast_decoder
    assert len([line for line in logged if reason in line]) == 1


def test_fast_decoder_is_not_reported(tiny_model, logged):
    assert Engine(tiny_model).runner.uses_fast_decoder
    assert not any('KV slots' in line for line in logged)


def test_memory_does_not_grow_with_the_context(
    build_tiny, make_llm, tiny_tokenizer, make_sample
):
    """Neither KV slots nor rotary embeddings are made for all positions."""
    folder = make_llm(
        model_type='llama',
        vocab_size=len(tiny_tokenizer),
        max_position_embeddings=10**12,
        **SMALL,
    )
    model = build_tiny(decoder=dict(name_or_path=str(folder)))
    engine = Engine(model)
    prompt, images = make_prompts(model, make_sample)[0]
    request = engine.submit(
        prompt, images, max_new_tokens=300, min_new_tokens=300
    )
    assert len(request.answer().token_ids) == 300
    assert engine.runner.kv_cache.capacity == 512


@pytest.mark.parametrize('stored_tokens', [0, 4096])
def test_concurrent_requests_match_single_requests(
    tiny_model, prompts, stored_tokens
):
    lengths = [9, 3, 14, 5, 11]
    expected = [
        answer_with_transformers(tiny_model, *prompt, max_new_tokens=n)
        for prompt, n in zip(prompts, lengths, strict=True)
    ]
    engine = Engine(tiny_model, slots=3, stored_tokens=stored_tokens)
    for _ in range(2):  # the second time with a prefix cache
        requests = []
        for prompt, n in zip(prompts, lengths, strict=True):
            requests.append(engine.submit(*prompt, max_new_tokens=n))
            engine.step()
        assert engine.running == 3 and engine.waiting
        run_all(engine)
        assert ids_of(r.answer() for r in requests) == ids_of(expected)
        assert [r.prompt_tokens for r in requests] == [
            len(prompt.ids) + prompt.num_images * 2 for prompt, _ in prompts
        ]
    reused = [r.reused_tokens for r in requests]
    assert any(reused) == bool(stored_tokens)


def test_an_answer_of_one_token_moves_no_other_prompt(tiny_model, make_sample):
    """Slots are not compacted between the prefill batches of one step."""
    collator = tiny_model.collator(training=False)
    long = 'what is the colour of this circle, please ' * 10
    questions = ['', long + 'red', long + 'blue']
    lengths = [1, 6, 6]
    prompts = [
        (collator.tokenize(make_sample([], question)), [])
        for question in questions
    ]
    engine = Engine(tiny_model, stored_tokens=0)
    requests = [
        engine.submit(*prompt, max_new_tokens=n)
        for prompt, n in zip(prompts, lengths, strict=True)
    ]
    engine.step()
    assert engine.runner.stats.prefill_passes == 2
    run_all(engine)
    expected = [
        answer_with_transformers(tiny_model, *prompt, max_new_tokens=n)
        for prompt, n in zip(prompts, lengths, strict=True)
    ]
    assert ids_of(r.answer() for r in requests) == ids_of(expected)


def test_a_stop_string_ends_its_own_request_only(tiny_model, prompts):
    """Not when all hold the stop string at one step (MiniGPT-4 #533)."""
    engine = Engine(tiny_model)
    full = [engine.submit(*p, max_new_tokens=20) for p in prompts[:2]]
    run_all(engine)
    text, other = full[0].text, full[1].text
    pairs = [text[i : i + 2] for i in range(len(text) // 2)]
    stop = next(pair for pair in pairs if pair not in other)
    stopped = [
        engine.submit(*p, max_new_tokens=20, stop=[stop]) for p in prompts[:2]
    ]
    run_all(engine)
    assert stopped[0].finish_reason == 'stop'
    assert stopped[0].text == text[: text.index(stop)].strip()
    assert 0 < len(stopped[0].token_ids) < 20
    assert ids_of([stopped[1].answer()]) == ids_of([full[1].answer()])


def test_end_of_text_ends_an_answer(tiny_model, prompts):
    engine = Engine(tiny_model)
    first = engine.submit(*prompts[0], max_new_tokens=10)
    run_all(engine)
    assert first.finish_reason == 'length' and not first.answer().finished
    tokenizer = tiny_model.decoder.tokenizer
    eos = tokenizer.eos_token_id
    tokenizer.eos_token_id = first.token_ids[4]
    length = first.token_ids.index(first.token_ids[4])
    try:
        second = engine.submit(*prompts[0], max_new_tokens=10)
        run_all(engine)
        longer = engine.submit(
            *prompts[0], max_new_tokens=10, min_new_tokens=8
        )
        run_all(engine)
    finally:
        tokenizer.eos_token_id = eos
    assert second.finish_reason == 'stop' and second.answer().finished
    assert second.token_ids == first.token_ids[:length], 'without its token'
    assert len(longer.token_ids) >= 8


def test_prefill_is_batched_and_skips_cached_tokens(tiny_model, prompts):
    engine = Engine(tiny_model)
    stats = engine.runner.stats
    prompt = prompts[3]
    requests = [engine.submit(*prompt, max_new_tokens=3) for _ in range(3)]
    engine.step()
    length = requests[0].prompt_tokens
    # the second and the third copy the prompt of the first, except its end
    assert (stats.prefill_passes, stats.prefill_tokens) == (2, length + 2)
    assert [r.reused_tokens for r in requests] == [0, length - 1, length - 1]
    assert (stats.decode_passes, stats.decode_tokens) == (1, 3)
    run_all(engine)
    assert ids_of(r.answer() for r in requests[1:]) == ids_of(
        [requests[0].answer()] * 2
    )
    again = engine.submit(*prompt, max_new_tokens=3)
    run_all(engine)
    assert again.reused_tokens == length - 1
    assert stats.prefill_tokens == length + 3, 'the last token only'
    assert again.token_ids == requests[0].token_ids


@pytest.mark.parametrize(
    'lengths, batches, running',
    [  # the second answer ends two steps after the first
        ([3, 5, *[30] * 14, 9, 9], [16, 2], [16, 15, 15, 14, 16]),
        # no other one ends for long, and then again
        (
            [3, *[30] * 15, 9, 9, 9],
            [16, 1, 1, 1],
            [16, *[15] * 9, *[16] * 7, *[15] * 9, 16],
        ),
    ],
)
def test_waiting_requests_are_admitted_in_groups(
    tiny_model, make_sample, monkeypatch, lengths, batches, running
):
    """A free slot of 16 waits for a second one, but not indefinitely."""
    engine = Engine(tiny_model, slots=16)
    prefill, sizes = engine.runner.prefill, []

    def counting(requests):
        sizes.append(len(requests))
        return prefill(requests)

    monkeypatch.setattr(engine.runner, 'prefill', counting)
    collator = tiny_model.collator(training=False)
    requests = []
    for seed, length in enumerate(lengths):
        sample = make_sample([seed], 'describe this image in detail')
        prompt = collator.tokenize(sample)
        requests.append(
            engine.submit(
                prompt,
                sample.images,
                max_new_tokens=length,
                min_new_tokens=length,
            )
        )
    were_running = []
    while engine.step():
        were_running.append(engine.running)
    assert [len(request.token_ids) for request in requests] == lengths
    assert sizes == batches
    assert were_running[: len(running)] == running


def test_short_requests_do_not_read_up_to_the_longest(tiny_model, make_sample):
    collator = tiny_model.collator(training=False)
    work = []
    for text in ('describe this', 'a large red circle ' * 12):
        sample = make_sample([1], text)
        work.append((collator.tokenize(sample), sample.images))
    expected = [
        answer_with_transformers(tiny_model, *prompt, max_new_tokens=8)
        for prompt in work
    ]
    engine = Engine(tiny_model, slots=2)
    requests = [engine.submit(*prompt, max_new_tokens=8) for prompt in work]
    engine.step()
    cache = engine.runner.kv_cache
    slot = requests[0].slot
    length = cache.lengths[slot]
    assert 2 * length < max(cache.lengths)
    with torch.inference_mode():
        for tensor in (*cache.keys, *cache.values):
            tensor[slot, :, length:] = float('nan')
    run_all(engine)
    assert ids_of(r.answer() for r in requests) == ids_of(expected)


def test_equal_prompts_of_one_step_are_computed_once(
    tiny_model, prompts, make_sample
):
    """Prompts in between, and answers of one token, change no other."""
    other = prompts[1]
    work = [
        (prompts[0], 1),
        (other, 6),
        (prompts[0], 6),
        (prompts[0], 1),
        (other, 5),
        (prompts[0], 7),
    ]
    for stored_tokens in (0, 4096):
        engine = Engine(tiny_model, stored_tokens=stored_tokens)
        requests = [
            engine.submit(*prompt, max_new_tokens=n) for prompt, n in work
        ]
        run_all(engine)
        expected = [
            answer_with_transformers(tiny_model, *prompt, max_new_tokens=n)
            for prompt, n in work
        ]
        assert ids_of(r.answer() for r in requests) == ids_of(expected)
        stats = engine.runner.stats
        assert stats.prefill_tokens < sum(r.prompt_tokens for r in requests)


def test_image_of_several_questions_in_one_step_is_prefilled_once(
    tiny_model, make_sample
):
    """Other questions in between change no answer."""
    questions = [
        ([0], 'what'),
        ([1], 'describe this image in detail'),
        ([0], 'what is the colour'),
        ([], 'what is the colour'),
        ([0, 1], '<ImageHere> or <ImageHere>'),
        ([0], 'a small circle on a square'),
        ([1, 0], '<ImageHere> or <ImageHere>'),
    ]
    collator = tiny_model.collator(training=False)
    prompts = [
        (collator.tokenize(sample), sample.images)
        for sample in (make_sample(*question) for question in questions)
    ]
    expected = [
        answer_with_transformers(tiny_model, *prompt, max_new_tokens=7)
        for prompt in prompts
    ]
    engine = Engine(tiny_model, stored_tokens=0)
    requests = [engine.submit(*p, max_new_tokens=7) for p in prompts]
    run_all(engine)
    assert ids_of(r.answer() for r in requests) == ids_of(expected)
    reused = [request.reused_tokens for request in requests]
    assert [number > 0 for number in reused] == [
        *(False, False, True, False, True, True, True)
    ]
    stats = engine.runner.stats
    prompt_tokens = sum(request.prompt_tokens for request in requests)
    assert stats.prefill_tokens == prompt_tokens - sum(reused)


def test_a_failure_ends_requests_that_wait_for_an_equal_prompt(
    tiny_model, prompts, monkeypatch
):
    engine = Engine(tiny_model)
    monkeypatch.setattr(engine.prefix_cache, 'load', Failing())
    requests = [engine.submit(*prompts[0]) for _ in range(3)]
    engine.step()
    assert [r.finish_reason for r in requests] == ['error'] * 3
    monkeypatch.undo()
    assert engine.submit(*prompts[0], max_new_tokens=2).answer().token_ids


def test_cached_tokens_of_another_image_are_not_reused(
    tiny_model, make_sample
):
    collator = tiny_model.collator(training=False)
    samples = [make_sample([seed], 'describe this') for seed in (0, 1, 0)]
    engine = Engine(tiny_model)
    answers = []
    for sample in samples:
        prompt = collator.tokenize(sample)
        request = engine.submit(prompt, sample.images, max_new_tokens=8)
        answers.append(request.answer().token_ids)
        assert request.token_ids == (
            answer_with_transformers(
                tiny_model, prompt, sample.images, max_new_tokens=8
            ).token_ids
        )
    assert answers[0] == answers[2] != answers[1]
    assert request.reused_tokens == request.prompt_tokens - 1


def test_images_are_encoded_once_in_one_batch(tiny_model, prompts):
    engine = Engine(tiny_model, stored_tokens=0)
    stats = engine.runner.stats
    for _ in range(2):
        for prompt in prompts:
            engine.submit(*prompt, max_new_tokens=2)
        run_all(engine)
        # the second time their features are stored
        assert (stats.images, stats.image_passes) == (5, 1)


def test_stored_tokens_are_limited(tiny_model, prompts):
    engine = Engine(tiny_model, slots=2, stored_tokens=40)
    for _ in range(2):
        for prompt in prompts:
            engine.submit(*prompt, max_new_tokens=5)
        run_all(engine)
        assert 0 < engine.prefix_cache.num_tokens <= 40
    without = Engine(tiny_model, stored_tokens=0)
    without.submit(*prompts[0], max_new_tokens=5)
    run_all(without)
    assert without.prefix_cache.num_tokens == 0


def test_alternating_chats_keep_their_cached_tokens(tiny_model, make_sample):
    """With a common prefix, which neither takes from the other."""
    engine = Engine(tiny_model, slots=1)
    collator = tiny_model.collator(training=False)

    def ask(sample):
        prompt = collator.tokenize(sample)
        request = engine.submit(prompt, sample.images, max_new_tokens=4)
        request.answer()
        return request

    same = 'what is the colour of a small circle on this image, please '
    one, two = same + 'describe a red square', same + 'describe a blue circle'
    ask(make_sample([], one, 'red', 'what'))
    other = ask(make_sample([], two, 'blue', 'what'))
    assert 0 < other.reused_tokens < other.prompt_tokens - 10
    for question, answer in ((one, 'red'), (two, 'blue')) * 2:
        again = ask(make_sample([], question, answer, 'what'))
        assert again.reused_tokens == again.prompt_tokens - 1


def test_a_seed_gives_the_same_answer_in_any_batch(tiny_model, prompts):
    settings = dict(
        max_new_tokens=8, do_sample=True, temperature=5.0, top_k=0, seed=3
    )
    engine = Engine(tiny_model)
    alone = engine.submit(*prompts[0], **settings).answer()
    others = [
        engine.submit(*prompt, do_sample=True, max_new_tokens=6)
        for prompt in prompts
    ]
    engine.step()
    batched = engine.submit(*prompts[0], **settings)
    greedy = engine.submit(*prompts[1], max_new_tokens=8)
    run_all(engine)
    assert batched.answer() == alone and all(r.finished for r in others)
    other = engine.submit(*prompts[0], **settings | dict(seed=4)).answer()
    assert other != alone
    expected = answer_with_transformers(
        tiny_model, *prompts[1], max_new_tokens=8
    )
    assert ids_of([greedy.answer()]) == ids_of([expected])


@pytest.mark.parametrize(
    'settings',
    [
        dict(repetition_penalty=3.0),
        dict(num_beams=3),
        dict(num_beams=2, length_penalty=-1.0),
        dict(num_beams=2, do_sample=True, seed=1),
    ],
)
def test_parameters_have_the_meaning_of_transformers(
    tiny_model, prompts, settings
):
    engine = Engine(tiny_model)
    plain = engine.submit(*prompts[0], max_new_tokens=40)
    other = engine.submit(*prompts[0], max_new_tokens=40, **settings)
    run_all(engine)
    expected = answer_with_transformers(
        tiny_model, *prompts[0], max_new_tokens=40, **settings
    )
    assert other.answer().token_ids == expected.token_ids != plain.token_ids


@pytest.mark.parametrize('num_beams', [1, 3])
def test_min_new_tokens_is_the_least_length(tiny_model, prompts, num_beams):
    """A stop string ended an answer before it (vllm #21987, #1945)."""
    engine = Engine(tiny_model)

    def answer(**settings):
        settings |= dict(num_beams=num_beams, max_new_tokens=16)
        return engine.submit(*prompts[0], **settings).answer()

    stop = list(string.ascii_lowercase)
    assert len(answer(stop=stop).token_ids) < 12
    for least in (12, 16):
        found = answer(stop=stop, min_new_tokens=least)
        assert len(found.token_ids) >= least


def test_cancel_does_not_change_other_requests(tiny_model, prompts):
    engine = Engine(tiny_model, slots=2)
    lengths = dict(max_new_tokens=9)
    expected = [
        answer_with_transformers(tiny_model, *prompt, **lengths)
        for prompt in prompts[:3]
    ]
    requests = [engine.submit(*prompt, **lengths) for prompt in prompts[:3]]
    for _ in range(3):
        engine.step()
    first, second, third = requests
    first.cancel()
    third.cancel()  # it waits
    engine.step()
    assert first.finish_reason == third.finish_reason == 'cancelled'
    assert first.token_ids == expected[0].token_ids[:4]
    assert not third.token_ids and third.answer().text == ''
    run_all(engine)
    assert ids_of([second.answer()]) == ids_of(expected[1:2])
    again = engine.submit(*prompts[0], **lengths)
    run_all(engine)
    assert again.reused_tokens
    assert ids_of([again.answer()]) == ids_of(expected[:1])


def test_closing_the_stream_cancels_the_request(tiny_model, prompts):
    engine = Engine(tiny_model)
    request = engine.submit(*prompts[0], max_new_tokens=50)
    for _ in request.pieces():
        break
    run_all(engine)
    assert request.finish_reason == 'cancelled'
    assert len(request.token_ids) < 20


def test_an_error_of_one_request_does_not_change_others(
    tiny_model, prompts, monkeypatch
):
    lengths = dict(max_new_tokens=6)
    expected = [
        answer_with_transformers(tiny_model, *prompt, **lengths)
        for prompt in prompts
    ]
    encode_images = tiny_model.encode_images
    bad = prompts[2][1][0]

    def failing(pixels):
        bad_pixels = tiny_model.data_preprocessor.normalize(bad[None])
        if any(torch.equal(image[None], bad_pixels) for image in pixels):
            raise RuntimeError('a broken image')
        return encode_images(pixels)

    monkeypatch.setattr(tiny_model, 'encode_images', failing)
    engine = Engine(tiny_model)
    requests = [engine.submit(*prompt, **lengths) for prompt in prompts]
    run_all(engine)
    broken = requests.pop(2)
    assert broken.finish_reason == 'error'
    with pytest.raises(RuntimeError, match='a broken image'):
        broken.answer()
    del expected[2]
    assert ids_of(r.answer() for r in requests) == ids_of(expected)

    good = engine.submit(*prompts[0], **lengths)
    failed = engine.submit(*prompts[1], do_sample=True, **lengths)
    failed.sampler = Failing()
    run_all(engine)
    assert isinstance(failed.error, MemoryError)
    assert ids_of([good.answer()]) == ids_of(expected[:1])


@pytest.mark.parametrize('settings', [{}, dict(do_sample=True)])
def test_nan_scores_are_an_error(build_tiny, make_sample, settings):
    """OpenGVLab/Ask-Anything #125: NaN weights gave empty answers."""
    model = build_tiny().eval()
    model.decoder.llm.lm_head.weight.data.fill_(float('nan'))
    engine = Engine(model, slots=1)
    request = engine.submit(*make_prompts(model, make_sample)[0], **settings)
    run_all(engine)
    with pytest.raises(ValueError, match=r'not numbers \(NaN\)'):
        request.answer()


def test_an_error_in_decode_ends_running_requests(
    tiny_model, prompts, monkeypatch
):
    engine = Engine(tiny_model, slots=1)
    first = engine.submit(*prompts[0], max_new_tokens=6)
    second = engine.submit(*prompts[1], max_new_tokens=6)
    engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(engine.runner, 'decode', Failing())
        engine.step()
    assert isinstance(first.error, MemoryError)
    run_all(engine)
    expected = answer_with_transformers(
        tiny_model, *prompts[1], max_new_tokens=6
    )
    assert ids_of([second.answer()]) == ids_of([expected])


def test_a_failing_listener_is_removed(tiny_model, prompts, log):
    engine = Engine(tiny_model)
    received: list = []

    def fail(piece):
        received.append(piece)
        raise OSError('the client is gone')

    request = engine.submit(*prompts[0], max_new_tokens=6)
    request.listen(fail)
    pieces: list = []
    request.listen(pieces.append)
    assert request.answer().text == ''.join(pieces[:-1])
    assert pieces[-1] is None and len(received) == 1
    assert 'the client is gone' in log[0]
    late: list = []
    request.listen(late.append)
    assert late == [request.text, None]


def test_an_error_of_the_prefix_cache_ends_running_requests(
    tiny_model, prompts, monkeypatch
):
    """Also those that were finished by the same step."""
    engine = Engine(tiny_model)
    requests = [
        engine.submit(*prompts[0], max_new_tokens=length) for length in (1, 6)
    ]
    with monkeypatch.context() as patch:
        patch.setattr(engine.prefix_cache, 'store', Failing())
        engine.step()
    assert requests[0].finish_reason == 'length'
    with pytest.raises(MemoryError, match='too much'):
        requests[1].answer()
    assert requests[1].finish_reason == 'error'
    assert not engine.running
    expected = answer_with_transformers(
        tiny_model, *prompts[0], max_new_tokens=6
    )
    again = engine.submit(*prompts[0], max_new_tokens=6)
    assert ids_of([again.answer()]) == ids_of([expected])


def test_invalid_requests_are_refused(tiny_model, prompts):
    engine = Engine(tiny_model)
    prompt, images = prompts[0]
    for arguments, message in (
        ((prompt, []), '1 image slots in the prompt but 0 images'),
        ((prompt, [images[0].float()]), 'an image is .* of torch.float32'),
        (
            (prompt, [images[0][:, :5]]),
            r'is \(3, 5, 28\).*\(3, 28, 28\)',
        ),
    ):
        with pytest.raises(ValueError, match=message):
            engine.submit(*arguments)
    with pytest.raises(ValueError, match='exceed the 2048 tokens'):
        engine.submit(prompt, images, max_new_tokens=2040)
    with pytest.raises(ValueError, match='exceed the 2048 tokens'):
        engine.rank(prompt, images, ['red ' * 2040])
    with pytest.raises(ValueError, match='unknown generation setting topk'):
        engine.submit(prompt, images, topk=3)
    with pytest.raises(ValueError, match='slots is 0'):
        Engine(tiny_model, slots=0)
    assert not engine.waiting and not engine.step()


def test_any_thread_can_submit_and_answer(tiny_model, prompts):
    engine = Engine(tiny_model, slots=2)
    expected = [
        answer_with_transformers(tiny_model, *prompt, max_new_tokens=5)
        for prompt in prompts
    ]
    answers: dict = {}

    def ask(i):
        answers[i] = engine.submit(*prompts[i], max_new_tokens=5).answer()

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert ids_of(answers[i] for i in range(5)) == ids_of(expected)


def test_long_answers_enlarge_the_cache(tiny_model, prompts):
    """Beyond the first capacity, next to a short answer."""
    engine = Engine(tiny_model)
    capacity = 256
    lengths = [capacity + 4, 9]
    requests = [
        engine.submit(*prompt, max_new_tokens=n, min_new_tokens=n)
        for prompt, n in zip(prompts[:2], lengths, strict=True)
    ]
    run_all(engine)
    assert engine.runner.kv_cache.capacity == 2 * capacity
    for request, prompt, n in zip(requests, prompts, lengths):
        expected = answer_with_transformers(
            tiny_model, *prompt, max_new_tokens=n, min_new_tokens=n
        )
        assert request.token_ids == expected.token_ids


@pytest.mark.parametrize('supports_kv_slots', [True, False])
def test_rank_is_the_mean_over_each_answers_own_tokens(
    tiny_model, prompts, supports_kv_slots, monkeypatch
):
    prompt, images = prompts[0]
    candidates = ['red', 'a large green square', 'the', 'blue circle']
    engine = Engine(tiny_model)
    monkeypatch.setattr(engine.runner, 'supports_kv_slots', supports_kv_slots)
    tokenizer = tiny_model.decoder.tokenizer
    expected = []
    for text in candidates:
        ids = tokenizer(text + '###', add_special_tokens=False).input_ids
        full = TokenizedPrompt(
            prompt.ids + ids, prompt.supervised + [True] * len(ids)
        )
        inputs = build_inputs([full], tiny_model.neck.num_tokens)
        pixels = tiny_model.data_preprocessor.normalize(torch.stack(images))
        with torch.no_grad():
            loss = float(tiny_model.loss(pixels, inputs)['loss'])
        expected.append(-loss)
    running = engine.submit(*prompts[1], max_new_tokens=5)
    if supports_kv_slots:
        engine.step()
    found = engine.rank(prompt, images, candidates)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    first = pytest.approx(expected[:1])
    assert engine.rank(prompt, images, candidates[:1]) == first
    assert engine.rank(prompt, images, ['red'], end=False) != first
    with pytest.raises(ValueError, match='candidate 2 of 2 has no tokens'):
        engine.rank(prompt, images, ['red', ''], end=False)
    run_all(engine)
    answer = answer_with_transformers(
        tiny_model, *prompts[1], max_new_tokens=5
    )
    assert ids_of([running.answer()]) == ids_of([answer]), 'not changed'


@pytest.mark.parametrize('family', ['qwen3', 'mistral_v0_1'])
def test_rank_of_a_chat_model_scores_the_supervised_tokens(
    build_chat, make_sample, family
):
    """The score is that of the training loss, end symbol included."""
    model = build_chat(family).eval()
    (score,) = rank(model, make_sample([0], 'what'), ['a circle'])
    sample = make_sample([0], 'what', 'a circle')
    (piece,) = model.collator(training=True)([sample])['pieces']
    data = model.data_preprocessor(piece, False)
    with torch.no_grad():
        loss = model(**data, mode='loss')['loss']
    assert score == pytest.approx(-float(loss), rel=1e-4)


def test_rank_computes_the_prompt_once(tiny_model, prompts):
    engine = Engine(tiny_model)
    stats = engine.runner.stats
    engine.rank(*prompts[0], ['red', 'blue', 'green'])
    length = stats.prefill_tokens
    assert stats.prefill_passes == 1 and length > 1
    engine.rank(*prompts[0], ['a', 'the'])
    assert stats.prefill_tokens == length + 1, 'the prompt is cached'
    assert stats.images == 1


@pytest.mark.parametrize(
    'backend',
    ['aot_eager', pytest.param('inductor', marks=pytest.mark.slow)],
)
def test_compiled_decode_gives_the_same_answers(
    tiny_model, prompts, backend, monkeypatch
):
    """With few graphs, for any number of requests and tokens."""
    compiler = torch.compile
    monkeypatch.setattr(
        torch, 'compile', lambda f: compiler(f, backend=backend)
    )
    torch.compiler.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    engine = Engine(tiny_model, slots=3, compile=True)
    lengths = [9, 70, 14, 5, 300]
    requests = [
        engine.submit(*prompt, max_new_tokens=n)
        for prompt, n in zip(prompts, lengths, strict=True)
    ]
    run_all(engine)
    graphs = counters['stats']['unique_graphs']
    assert 0 < graphs <= 4
    plain = Engine(tiny_model)
    expected = [
        plain.submit(*prompt, max_new_tokens=n).answer()
        for prompt, n in zip(prompts, lengths, strict=True)
    ]
    assert ids_of(r.answer() for r in requests) == ids_of(expected)
    assert counters['stats']['unique_graphs'] == graphs


def test_other_llms_are_not_compiled(
    build_tiny, make_llm, tiny_tokenizer, log
):
    folder = make_llm(
        model_type='gpt2',
        n_embd=32,
        n_layer=2,
        n_head=4,
        vocab_size=len(tiny_tokenizer),
    )
    model = build_tiny(decoder=dict(name_or_path=str(folder)))
    Engine(model, compile=True)
    assert any('is not compiled' in line for line in log)


def test_adapters_change_the_answer(build_tiny, prompts):
    """FastDecoder does not know LoRA, so it must not run such an LLM."""
    pytest.importorskip('peft')
    model = build_tiny(decoder=dict(lora=dict(r=4, target_modules=['q_proj'])))
    model.eval()
    engine = Engine(model)
    runner = engine.runner
    assert runner.supports_kv_slots and not runner.uses_fast_decoder
    for name, parameter in model.decoder.named_parameters():
        if 'lora_B' in name:
            torch.nn.init.normal_(parameter)
    found = engine.submit(*prompts[0], max_new_tokens=8).answer()
    expected = answer_with_transformers(model, *prompts[0], max_new_tokens=8)
    assert ids_of([found]) == ids_of([expected])
    base = Engine(build_tiny()).submit(*prompts[0], max_new_tokens=8).answer()
    assert found != base

    assert model.decoder.merge_lora()
    engine = Engine(model)
    assert engine.runner.uses_fast_decoder
    merged = engine.submit(*prompts[0], max_new_tokens=8).answer()
    assert ids_of([merged]) == ids_of([found])
