# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The engine: what it says is what transformers says, whoever comes by."""

import threading

import pytest
import torch

from minigpt4.generation.engine import Engine
from minigpt4.generation.hf_generate import generate
from minigpt4.models.collator import build_inputs


def prompts(model, make_sample):
    """Rows and images of several lengths: images 1, 0, 2, 1, 1."""
    samples = [
        make_sample([0], 'describe this image in detail'),
        make_sample([], 'what is the colour of a small circle on a square'),
        make_sample([1, 2], '<ImageHere> or <ImageHere>'),
        make_sample([3], 'what', 'the red circle', 'a blue square'),
        make_sample([4], ''),
    ]
    collator = model.collator(training=False)
    return [(collator.row(sample), sample.images) for sample in samples]


@pytest.fixture
def rows(tiny_model, make_sample):
    return prompts(tiny_model, make_sample)


@torch.no_grad()
def by_transformers(model, row, images, **settings):
    """The answer to a prompt that has transformers' generate for itself."""
    inputs = build_inputs([row], model.neck.num_tokens, 'left')
    pixels = None
    if images:
        pixels = model.data_preprocessor.normalize(torch.stack(images))
    (answer,) = generate(
        model.decoder.llm,
        model.decoder.tokenizer,
        model.embed(pixels, inputs),
        inputs.attention_mask,
        model.template.stop,
        **settings,
    )
    return answer


def finish(engine):
    while engine.step():
        pass


def ids_of(answers):
    # half characters, which a random LLM says, are written otherwise
    return [(answer.token_ids, answer.finished) for answer in answers]


def count_tokens(engine, monkeypatch):
    """List that the shapes of all passes go to: rows, tokens."""
    shapes = []
    original = engine._reader._pass

    def counting(embeddings, *args, **kwargs):
        shapes.append(tuple(embeddings.shape[:2]))
        return original(embeddings, *args, **kwargs)

    monkeypatch.setattr(engine._reader, '_pass', counting)
    return shapes


class Failing:
    """A sampler, or a pass, that fails."""

    plain = False

    def __call__(self, *_):
        raise MemoryError('too much')


LLMS = {
    'llama': dict(model_type='llama', tie_word_embeddings=False),
    'llama with groups': dict(model_type='llama', num_key_value_heads=2),
    'llama with biases': dict(model_type='llama', attention_bias=True),
    'opt': dict(model_type='opt', ffn_dim=48, word_embed_proj_dim=32),
    'gpt2': dict(model_type='gpt2', n_embd=32, n_layer=2, n_head=4),
    'gpt_neox': dict(model_type='gpt_neox'),
    'qwen2': dict(model_type='qwen2', num_key_value_heads=2),
    # the engine leaves these to transformers
    'mistral with a window': dict(
        model_type='mistral', sliding_window=8, num_key_value_heads=2
    ),
    'falcon with alibi': dict(model_type='falcon', alibi=True),
}
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


def test_any_llm_says_what_transformers_says(
    any_model, make_sample, request, log
):
    name = request.node.callspec.params['any_model']
    rows = prompts(any_model, make_sample)
    engine = Engine(any_model, slots=3)
    if name != 'gpt2':  # transformers below 4.50 gives it no cache object
        assert engine._reader.fits == (name not in LEFT_TO_TRANSFORMERS)
        assert any('in slots' in line for line in log) != engine._reader.fits
    plain = name in ('llama', 'llama with groups')
    assert (engine._reader._llama is not None) == plain
    generations = [engine.submit(*row, max_new_tokens=6) for row in rows]
    finish(engine)
    want = [by_transformers(any_model, *row, max_new_tokens=6) for row in rows]
    assert ids_of(g.answer() for g in generations) == ids_of(want)


@pytest.mark.parametrize('stored_tokens', [0, 4096])
def test_rows_come_and_go_as_if_alone(tiny_model, rows, stored_tokens):
    lengths = [9, 3, 14, 5, 11]
    want = [
        by_transformers(tiny_model, *row, max_new_tokens=n)
        for row, n in zip(rows, lengths, strict=True)
    ]
    engine = Engine(tiny_model, slots=3, stored_tokens=stored_tokens)
    for _ in range(2):  # the second time with what is stored
        generations = []
        for row, n in zip(rows, lengths, strict=True):
            generations.append(engine.submit(*row, max_new_tokens=n))
            engine.step()
        assert engine.running == 3 and engine.waiting
        finish(engine)
        assert ids_of(g.answer() for g in generations) == ids_of(want)
        assert [g.prompt_tokens for g in generations] == [
            len(row.ids) + row.num_images * 2 for row, _ in rows
        ]
    reused = [g.reused_tokens for g in generations]
    assert any(reused) == bool(stored_tokens)


def test_each_row_ends_by_itself(tiny_model, rows):
    """Not when all hold the stop string at one step (MiniGPT-4 #533)."""
    engine = Engine(tiny_model)
    long = [engine.submit(*row, max_new_tokens=20) for row in rows[:2]]
    finish(engine)
    said, other = long[0].text, long[1].text
    pairs = [said[i : i + 2] for i in range(len(said) // 2)]
    stop = next(pair for pair in pairs if pair not in other)
    again = [
        engine.submit(*row, max_new_tokens=20, stop=[stop]) for row in rows[:2]
    ]
    finish(engine)
    assert again[0].finish_reason == 'stop'
    assert again[0].text == said[: said.index(stop)].strip()
    assert 0 < len(again[0].token_ids) < 20
    assert ids_of([again[1].answer()]) == ids_of([long[1].answer()])


def test_end_of_text_ends_a_row(tiny_model, rows):
    engine = Engine(tiny_model)
    first = engine.submit(*rows[0], max_new_tokens=10)
    finish(engine)
    assert first.finish_reason == 'length' and not first.answer().finished
    tokenizer = tiny_model.decoder.tokenizer
    usual = tokenizer.eos_token_id
    tokenizer.eos_token_id = first.token_ids[4]
    try:
        second = engine.submit(*rows[0], max_new_tokens=10)
        finish(engine)
        whole = engine.submit(*rows[0], max_new_tokens=10, min_new_tokens=8)
        finish(engine)
    finally:
        tokenizer.eos_token_id = usual
    assert second.finish_reason == 'stop' and second.answer().finished
    assert second.token_ids == first.token_ids[:4], 'without the mark itself'
    assert len(whole.token_ids) >= 8


def test_prompts_are_read_together_and_only_what_is_new(
    tiny_model, rows, monkeypatch
):
    engine = Engine(tiny_model)
    shapes = count_tokens(engine, monkeypatch)
    row = rows[3]
    generations = [engine.submit(*row, max_new_tokens=3) for _ in range(3)]
    engine.step()
    length = generations[0].prompt_tokens
    assert shapes == [(3, length), (3, 1)], 'one pass for three prompts'
    finish(engine)
    del shapes[:]
    again = engine.submit(*row, max_new_tokens=3)
    finish(engine)
    assert again.reused_tokens == length - 1
    assert shapes[0] == (1, 1), 'the last token gives the scores'
    assert again.token_ids == generations[0].token_ids


@pytest.mark.parametrize(
    'lengths, read, running',
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
def test_those_that_wait_are_admitted_together(
    tiny_model, rows, monkeypatch, lengths, read, running
):
    """A free slot of 16 waits for a second one, but not for ever."""
    engine = Engine(tiny_model, slots=16)
    original, together = engine._reader.read, []

    def counting(prompts, *args):
        together.append(len(prompts))
        return original(prompts, *args)

    monkeypatch.setattr(engine._reader, 'read', counting)
    answers = [
        engine.submit(*rows[0], max_new_tokens=length) for length in lengths
    ]
    were_running = []
    while engine.step():
        were_running.append(engine.running)
    assert [len(answer.token_ids) for answer in answers] == lengths
    assert together == read
    assert were_running[: len(running)] == running


def test_nothing_reused_is_of_another_image(tiny_model, make_sample):
    collator = tiny_model.collator(training=False)
    samples = [make_sample([seed], 'describe this') for seed in (0, 1, 0)]
    engine = Engine(tiny_model)
    said = []
    for sample in samples:
        row = collator.row(sample)
        generation = engine.submit(row, sample.images, max_new_tokens=8)
        said.append(generation.answer().token_ids)
        assert generation.token_ids == (
            by_transformers(
                tiny_model, row, sample.images, max_new_tokens=8
            ).token_ids
        )
    assert said[0] == said[2] != said[1]
    assert generation.reused_tokens == generation.prompt_tokens - 1


def test_images_are_seen_once_and_together(tiny_model, rows, monkeypatch):
    seen = []
    original = tiny_model.queries
    monkeypatch.setattr(
        tiny_model, 'queries', lambda x: seen.append(len(x)) or original(x)
    )
    engine = Engine(tiny_model, stored_tokens=0)
    for row in rows:
        engine.submit(*row, max_new_tokens=2)
    finish(engine)
    assert seen == [5], 'one pass for the images of five prompts'
    for row in rows:
        engine.submit(*row, max_new_tokens=2)
    finish(engine)
    assert seen == [5], 'known by their pixels'


def test_stored_tokens_are_limited(tiny_model, rows):
    engine = Engine(tiny_model, slots=2, stored_tokens=40)
    for _ in range(2):
        for row in rows:
            engine.submit(*row, max_new_tokens=5)
        finish(engine)
        kept = [len(past.keys) for past in engine._pasts._pasts]
        assert 0 < sum(kept) <= 40
    nothing = Engine(tiny_model, stored_tokens=0)
    nothing.submit(*rows[0], max_new_tokens=5)
    finish(nothing)
    assert not nothing._pasts._pasts


def test_two_chats_in_turn_keep_what_they_said(tiny_model, make_sample):
    """They have a beginning in common, which neither takes from the other."""
    engine = Engine(tiny_model, slots=1)
    collator = tiny_model.collator(training=False)

    def ask(sample):
        row = collator.row(sample)
        generation = engine.submit(row, sample.images, max_new_tokens=4)
        generation.answer()
        return generation

    same = 'what is the colour of a small circle on this image, please '
    one, two = same + 'describe a red square', same + 'describe a blue circle'
    ask(make_sample([], one, 'red', 'what'))
    other = ask(make_sample([], two, 'blue', 'what'))
    assert 0 < other.reused_tokens < other.prompt_tokens - 10
    for question, answer in ((one, 'red'), (two, 'blue')) * 2:
        again = ask(make_sample([], question, answer, 'what'))
        assert again.reused_tokens == again.prompt_tokens - 1


def test_a_seed_repeats_whatever_else_is_there(tiny_model, rows):
    settings = dict(
        max_new_tokens=8, do_sample=True, temperature=5.0, top_k=0, seed=3
    )
    engine = Engine(tiny_model)
    alone = engine.submit(*rows[0], **settings).answer()
    others = [
        engine.submit(*row, do_sample=True, max_new_tokens=6) for row in rows
    ]
    engine.step()
    among = engine.submit(*rows[0], **settings)
    greedy = engine.submit(*rows[1], max_new_tokens=8)
    finish(engine)
    assert among.answer() == alone and all(g.finished for g in others)
    other = engine.submit(*rows[0], **settings | dict(seed=4)).answer()
    assert other != alone
    want = by_transformers(tiny_model, *rows[1], max_new_tokens=8)
    assert ids_of([greedy.answer()]) == ids_of([want]), 'its neighbours draw'


@pytest.mark.parametrize(
    'settings',
    [
        dict(repetition_penalty=3.0),
        dict(num_beams=3),
        dict(num_beams=2, length_penalty=-1.0),
        dict(num_beams=2, do_sample=True, seed=1),
    ],
)
def test_settings_mean_what_they_mean_to_transformers(
    tiny_model, rows, settings
):
    engine = Engine(tiny_model)
    plain = engine.submit(*rows[0], max_new_tokens=40)
    other = engine.submit(*rows[0], max_new_tokens=40, **settings)
    finish(engine)
    want = by_transformers(tiny_model, *rows[0], max_new_tokens=40, **settings)
    assert other.answer().token_ids == want.token_ids != plain.token_ids


@pytest.mark.parametrize('num_beams', [1, 3])
def test_an_answer_is_not_shorter_than_asked_for(tiny_model, rows, num_beams):
    """A stop text ended it before min_new_tokens (vllm #21987, #1945)."""
    engine = Engine(tiny_model)

    def answer(**settings):
        settings |= dict(num_beams=num_beams, max_new_tokens=16)
        return engine.submit(*rows[0], **settings).answer()

    # a text that the answer with this minimum writes early
    words = answer(min_new_tokens=12).text.split()
    stop = [words[0][:2], words[1][:1]]
    assert len(answer(stop=stop).token_ids) < 6
    for least in (6, 12, 16):
        found = answer(stop=stop, min_new_tokens=least)
        assert len(found.token_ids) >= least


def test_cancel_leaves_the_others_alone(tiny_model, rows):
    engine = Engine(tiny_model, slots=2)
    lengths = dict(max_new_tokens=9)
    want = [by_transformers(tiny_model, *row, **lengths) for row in rows[:3]]
    generations = [engine.submit(*row, **lengths) for row in rows[:3]]
    for _ in range(3):
        engine.step()
    first, second, third = generations
    first.cancel()
    third.cancel()  # it waits
    engine.step()
    assert first.finish_reason == third.finish_reason == 'cancelled'
    assert first.token_ids == want[0].token_ids[:4]
    assert not third.token_ids and third.answer().text == ''
    finish(engine)
    assert ids_of([second.answer()]) == ids_of(want[1:2])
    again = engine.submit(*rows[0], **lengths)
    finish(engine)
    assert again.reused_tokens and ids_of([again.answer()]) == ids_of(want[:1])


def test_leaving_the_stream_cancels(tiny_model, rows):
    engine = Engine(tiny_model)
    generation = engine.submit(*rows[0], max_new_tokens=50)
    for _ in generation.pieces():
        break
    finish(engine)
    assert generation.finish_reason == 'cancelled'
    assert len(generation.token_ids) < 20


def test_a_fault_of_one_request_is_its_own(tiny_model, rows, monkeypatch):
    lengths = dict(max_new_tokens=6)
    want = [by_transformers(tiny_model, *row, **lengths) for row in rows]
    original = tiny_model.queries
    bad = rows[2][1][0]

    def queries(pixels):
        poison = tiny_model.data_preprocessor.normalize(bad[None])
        if any(torch.equal(image[None], poison) for image in pixels):
            raise RuntimeError('a broken image')
        return original(pixels)

    monkeypatch.setattr(tiny_model, 'queries', queries)
    engine = Engine(tiny_model)
    generations = [engine.submit(*row, **lengths) for row in rows]
    finish(engine)
    broken = generations.pop(2)
    assert broken.finish_reason == 'error'
    with pytest.raises(RuntimeError, match='a broken image'):
        broken.answer()
    del want[2]
    assert ids_of(g.answer() for g in generations) == ids_of(want)

    good = engine.submit(*rows[0], **lengths)
    poor = engine.submit(*rows[1], do_sample=True, **lengths)
    poor.sampler = Failing()
    finish(engine)
    assert isinstance(poor.error, MemoryError)
    assert ids_of([good.answer()]) == ids_of(want[:1])


@pytest.mark.parametrize('settings', [{}, dict(do_sample=True)])
def test_scores_that_are_not_numbers_are_an_error(
    build_tiny, make_sample, settings
):
    """OpenGVLab/Ask-Anything #125: NaN weights gave empty answers."""
    model = build_tiny().eval()
    model.decoder.llm.lm_head.weight.data.fill_(float('nan'))
    engine = Engine(model, slots=1)
    answer = engine.submit(*prompts(model, make_sample)[0], **settings)
    finish(engine)
    with pytest.raises(ValueError, match=r'not numbers \(NaN\)'):
        answer.answer()


def test_a_fault_of_a_step_ends_those_it_hits(tiny_model, rows, monkeypatch):
    engine = Engine(tiny_model, slots=1)
    first = engine.submit(*rows[0], max_new_tokens=6)
    second = engine.submit(*rows[1], max_new_tokens=6)
    engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(engine._reader, 'next', Failing())
        engine.step()
    assert isinstance(first.error, MemoryError)
    finish(engine)
    want = by_transformers(tiny_model, *rows[1], max_new_tokens=6)
    assert ids_of([second.answer()]) == ids_of([want])


def test_a_listener_that_fails_is_not_told_any_more(tiny_model, rows, log):
    engine = Engine(tiny_model)
    heard: list = []

    def fail(piece):
        heard.append(piece)
        raise OSError('the client is gone')

    generation = engine.submit(*rows[0], max_new_tokens=6)
    generation.listen(fail)
    pieces: list = []
    generation.listen(pieces.append)
    assert generation.answer().text == ''.join(pieces[:-1])
    assert pieces[-1] is None and len(heard) == 1
    assert 'the client is gone' in log[0]
    late: list = []
    generation.listen(late.append)
    assert late == [generation.text, None]


def test_a_fault_after_reading_is_told(tiny_model, rows, monkeypatch):
    engine = Engine(tiny_model)
    choose = Engine._choose

    def fail(self, *args):
        choose(self, *args)
        monkeypatch.undo()  # once
        raise MemoryError('no room')

    monkeypatch.setattr(Engine, '_choose', fail)
    generation = engine.submit(*rows[0], max_new_tokens=6)
    with pytest.raises(MemoryError, match='no room'):
        generation.answer()
    assert generation.finish_reason == 'error'
    assert engine.submit(*rows[0], max_new_tokens=6).answer().token_ids


def test_what_cannot_be_answered_is_refused(tiny_model, rows):
    engine = Engine(tiny_model)
    row, images = rows[0]
    for arguments, message in (
        ((row, []), '1 image slots in the prompt but 0 images'),
        ((row, [images[0].float()]), 'an image is .* of torch.float32'),
        (
            (row, [images[0][:, :5]]),
            r'is \(3, 5, 28\).*\(3, 28, 28\)',
        ),
    ):
        with pytest.raises(ValueError, match=message):
            engine.submit(*arguments)
    with pytest.raises(ValueError, match='exceed the 2048 tokens'):
        engine.submit(row, images, max_new_tokens=2040)
    with pytest.raises(ValueError, match='unknown generation setting topk'):
        engine.submit(row, images, topk=3)
    with pytest.raises(ValueError, match='slots is 0'):
        Engine(tiny_model, slots=0)
    assert not engine.waiting and not engine.step()


def test_requests_come_from_any_thread(tiny_model, rows):
    engine = Engine(tiny_model, slots=2)
    want = [
        by_transformers(tiny_model, *row, max_new_tokens=5) for row in rows
    ]
    answers: dict = {}

    def ask(i):
        answers[i] = engine.submit(*rows[i], max_new_tokens=5).answer()

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert ids_of(answers[i] for i in range(5)) == ids_of(want)


def test_model_answers_by_the_engine(tiny_model, make_sample, monkeypatch):
    """One way of doing things, and each row stops by itself."""
    monkeypatch.setattr(
        tiny_model.decoder.llm, 'generate', lambda **_: pytest.fail('not here')
    )
    samples = [make_sample([0], 'describe'), make_sample([], 'what')]
    answers = tiny_model.generate(samples, max_new_tokens=4)
    assert [len(answer.token_ids) for answer in answers] == [4, 4]


def test_long_answers_make_room(tiny_model, rows):
    """Beyond the first capacity, with a neighbour that is short."""
    engine = Engine(tiny_model)
    long = engine.submit(*rows[0], max_new_tokens=260)
    short = engine.submit(*rows[1], max_new_tokens=9)
    finish(engine)
    for generation, row in ((long, rows[0]), (short, rows[1])):
        n = generation.settings.max_new_tokens
        want = by_transformers(tiny_model, *row, max_new_tokens=n)
        assert generation.token_ids == want.token_ids


@pytest.mark.parametrize('fits', [True, False])
def test_rank_is_the_mean_of_each_answers_own_tokens(
    tiny_model, rows, fits, monkeypatch
):
    row, images = rows[0]
    candidates = ['red', 'a large green square', 'the', 'blue circle']
    engine = Engine(tiny_model)
    monkeypatch.setattr(engine._reader, 'fits', fits)
    tokenizer = tiny_model.decoder.tokenizer
    want = []
    for text in candidates:
        ids = tokenizer(text + '###', add_special_tokens=False).input_ids
        whole = type(row)(row.ids + ids, row.supervised + [True] * len(ids))
        inputs = build_inputs([whole], tiny_model.neck.num_tokens)
        pixels = tiny_model.data_preprocessor.normalize(torch.stack(images))
        with torch.no_grad():
            want.append(-float(tiny_model.loss(pixels, inputs)['loss']))
    running = engine.submit(*rows[1], max_new_tokens=5)
    if fits:
        engine.step()
    found = engine.rank(row, images, candidates)
    torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4)
    assert engine.rank(row, images, candidates[:1]) == pytest.approx(want[:1])
    one_token = engine.rank(row, images, ['red'], end=False)
    assert one_token != pytest.approx(want[:1])
    with pytest.raises(ValueError, match='candidate 2 of 2 has no tokens'):
        engine.rank(row, images, ['red', ''], end=False)
    finish(engine)
    by = by_transformers(tiny_model, *rows[1], max_new_tokens=5)
    assert ids_of([running.answer()]) == ids_of([by]), 'it was let alone'


def test_rank_reads_the_prompt_once(tiny_model, rows, monkeypatch):
    engine = Engine(tiny_model)
    shapes = count_tokens(engine, monkeypatch)
    engine.rank(*rows[0], ['red', 'blue', 'green'])
    assert len(shapes) == 2 and shapes[0][0] == shapes[1][0] == 1
    del shapes[:]
    engine.rank(*rows[0], ['a', 'the'])
    assert shapes[0] == (1, 1), 'the prompt is known'


@pytest.mark.parametrize(
    'backend',
    ['aot_eager', pytest.param('inductor', marks=pytest.mark.slow)],
)
def test_compiled_says_the_same(tiny_model, rows, backend, monkeypatch):
    """With few codes, whatever number of rows and places there is."""
    compiler = torch.compile
    monkeypatch.setattr(
        torch, 'compile', lambda f: compiler(f, backend=backend)
    )
    torch.compiler.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    engine = Engine(tiny_model, slots=3, compile=True)
    lengths = [9, 70, 14, 5, 300]
    generations = [
        engine.submit(*row, max_new_tokens=n)
        for row, n in zip(rows, lengths, strict=True)
    ]
    finish(engine)
    graphs = counters['stats']['unique_graphs']
    assert 0 < graphs <= 4
    plain = Engine(tiny_model)
    want = [
        plain.submit(*row, max_new_tokens=n).answer()
        for row, n in zip(rows, lengths, strict=True)
    ]
    assert ids_of(g.answer() for g in generations) == ids_of(want)
    assert counters['stats']['unique_graphs'] == graphs


def test_only_llama_is_compiled(build_tiny, make_llm, tiny_tokenizer, log):
    folder = make_llm(
        model_type='gpt2',
        n_embd=32,
        n_layer=2,
        n_head=4,
        vocab_size=len(tiny_tokenizer),
    )
    model = build_tiny(decoder=dict(name_or_path=str(folder)))
    Engine(model, compile=True)
    assert any('only a plain LLaMA is compiled' in line for line in log)


def test_adapters_are_heard(build_tiny, rows):
    """LoRA changes what is said, so our pass must not read past it."""
    pytest.importorskip('peft')
    model = build_tiny(decoder=dict(lora=dict(r=4, target_modules=['q_proj'])))
    model.eval()
    engine = Engine(model)
    assert engine._reader._llama is None and engine._reader.fits
    for name, parameter in model.decoder.named_parameters():
        if 'lora_B' in name:
            torch.nn.init.normal_(parameter)
    found = engine.submit(*rows[0], max_new_tokens=8).answer()
    want = by_transformers(model, *rows[0], max_new_tokens=8)
    assert ids_of([found]) == ids_of([want])
    assert (
        found
        != Engine(build_tiny()).submit(*rows[0], max_new_tokens=8).answer()
    )
