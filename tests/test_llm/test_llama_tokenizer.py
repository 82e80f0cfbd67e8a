# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Words are cut as SentencePiece cuts them."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from minigpt4.llm.load import load_tokenizer
from minigpt4.prompts.tokenization import encode, encode_answer
from minigpt4.weights.shipped import NANO_FOLDER as SHIPPED

WORDS = (
    'foo bar the red . ### </Img> [INST] x y Describe 12 é 猫 a-b "q" it\'s '
    '</s> <s> <unk> [PAD] <0x0A> <image> ﬁ ① Ａ 🙂 ▁'
).split() + ['\n', ' ', '  ', '\t', '\x07', '\u200d', '\ufeff', '\u2028']


def texts():
    draw = random.Random(0)
    for _ in range(300):
        yield ''.join(
            draw.choice(WORDS) + draw.choice(('', ' ', '  '))
            for _ in range(draw.randint(1, 12))
        )


@pytest.fixture(params=['nano', 'LLaMA'])
def model_file(request) -> Path:
    if request.param == 'nano':
        return NANO
    if not os.environ.get('MINIGPT4_LLAMA_TOKENIZER'):
        pytest.skip("MINIGPT4_LLAMA_TOKENIZER does not name LLaMA's file")
    return Path(os.environ['MINIGPT4_LLAMA_TOKENIZER'])


def folder_of(tmp_path, model_file, **settings) -> Path:
    shutil.copy(model_file, tmp_path / 'tokenizer.model')
    (tmp_path / 'config.json').write_text('{"model_type": "llama"}')
    (tmp_path / 'tokenizer_config.json').write_text(
        json.dumps(dict(tokenizer_class='LlamaTokenizer') | settings)
    )
    return tmp_path


NANO = SHIPPED / 'llm' / 'tokenizer.model'
SPRING_2023 = dict(
    tokenizer_class='LLaMATokenizer',
    bos_token='',
    eos_token='',
    unk_token='',
    model_max_length=1e30,
)


@pytest.mark.parametrize(
    'settings',
    [
        {},
        dict(legacy=True),
        dict(legacy=False),
        dict(legacy=None),
        SPRING_2023,
        dict(SPRING_2023, use_fast=False, legacy=False),
        dict(bos_token=None, eos_token=None, unk_token=None),
        dict(tokenizer_class='TokenizersBackend'),
        dict(tokenizer_class='PreTrainedTokenizerFast'),
        dict(bos_token='</s>', unk_token={'content': '</s>'}),
    ],
)
def test_same_tokens_as_sentencepiece(tmp_path, model_file, settings):
    """decapoda-research's LLaMA and Vicuna v0: transformers #22222."""
    folder = folder_of(tmp_path, model_file, **settings)
    tokenizer = load_tokenizer(str(folder))
    pieces = SentencePieceProcessor(model_file=str(model_file))
    for text in texts():
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert ids == pieces.encode(text), text
        assert tokenizer.decode(ids) == pieces.decode(ids), text
    roles = (
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.unk_token_id,
    )
    assert roles == (1, 2, 0)


def test_folder_without_settings(tmp_path, model_file):
    shutil.copy(model_file, tmp_path / 'tokenizer.model')
    (tmp_path / 'config.json').write_text('{"model_type": "llama"}')
    tokenizer = load_tokenizer(str(tmp_path))
    pieces = SentencePieceProcessor(model_file=str(model_file))
    ids = tokenizer(' foo  </s>', add_special_tokens=False).input_ids
    assert ids == pieces.encode(' foo  </s>')


def test_padding_token_of_vicuna_v0(tmp_path, model_file):
    folder = folder_of(tmp_path, model_file)
    pieces = SentencePieceProcessor(model_file=str(model_file))
    (folder / 'added_tokens.json').write_text(
        json.dumps({'[PAD]': len(pieces), '<image>': len(pieces) + 1})
    )
    (folder / 'special_tokens_map.json').write_text(
        '{"bos_token": "", "pad_token": "[PAD]"}'
    )
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.pad_token_id == len(pieces)
    assert tokenizer.bos_token_id == 1
    for text in ('a [PAD] b', '<image>x', '<0x0A>', 'a<s></s><unk>'):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert ids == pieces.encode(text)
        assert encode(tokenizer, text) == ids


def test_added_token_can_be_the_end_token(tmp_path):
    size = len(SentencePieceProcessor(model_file=str(NANO)))
    folder = folder_of(
        tmp_path,
        NANO,
        eos_token='<|im_end|>',
        added_tokens_decoder={str(size): {'content': '<|im_end|>'}},
    )
    assert load_tokenizer(str(folder)).eos_token_id == size


def train(path, **options) -> SentencePieceProcessor:
    """A SentencePiece BPE of a few words."""
    options = (
        dict(
            model_type='bpe',
            vocab_size=300,
            hard_vocab_limit=False,
            byte_fallback=True,
            normalization_rule_name='identity',
            remove_extra_whitespaces=False,
            minloglevel=2,
            num_threads=1,
        )
        | options
    )
    # of different ones a unigram model keeps words, not letters alone
    sentences = ['the red circle of the end', 'a red end', 'at the circles']
    with path.open('wb') as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(sentences * 20),
            model_writer=file,
            **options,
        )
    return SentencePieceProcessor(model_file=str(path))


def test_vocabulary_in_another_order(tmp_path):
    """transformers #25611: bos 0, eos 1, unk 2."""
    folder = folder_of(tmp_path, NANO)
    pieces = train(
        folder / 'tokenizer.model', bos_id=0, eos_id=1, unk_id=2, pad_id=-1
    )
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.bos_token_id == 0 and tokenizer.eos_token_id == 1
    assert encode(tokenizer, ' the  end</s>') == pieces.encode(' the  end</s>')


def test_end_token_of_the_vocabulary(tmp_path):
    """transformers #29774: <|im_end|> of Yi is in its vocabulary."""
    folder = folder_of(
        tmp_path,
        NANO,
        eos_token='<|im_end|>',
        added_tokens_decoder={'3': {'content': '<|im_end|>'}},
    )
    train(folder / 'tokenizer.model', user_defined_symbols=['<|im_end|>'])
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.eos_token == '<|im_end|>'
    assert tokenizer.eos_token_id == 3
    assert 3 not in encode(tokenizer, 'the <|im_end|>')


@pytest.mark.parametrize(
    'options',
    [
        dict(user_defined_symbols=['qx']),
        dict(normalization_rule_name='nmt_nfkc'),
        dict(remove_extra_whitespaces=True),
        dict(model_type='unigram', vocab_size=280),
    ],
)
def test_other_settings_of_sentencepiece_are_refused(tmp_path, options):
    folder = folder_of(tmp_path, NANO)
    train(folder / 'tokenizer.model', **options)
    with pytest.raises(ValueError, match='only SentencePiece itself can do'):
        load_tokenizer(str(folder))


def test_model_without_a_leading_blank(tmp_path):
    folder = folder_of(tmp_path, NANO)
    pieces = train(folder / 'tokenizer.model', add_dummy_prefix=False)
    tokenizer = load_tokenizer(str(folder))
    for text in texts():
        ids = encode(tokenizer, text)
        assert ids == pieces.encode(text), text
        assert tokenizer.decode(ids) == pieces.decode(ids), text


def test_ignored_end_token_is_logged(tmp_path, log):
    folder = folder_of(tmp_path, NANO, bos_token='</s>')
    assert load_tokenizer(str(folder)).bos_token == '<s>'
    assert any("bos_token '</s>'" in line for line in log)


def test_added_token_with_a_wrong_id_is_refused(tmp_path):
    folder = folder_of(tmp_path, NANO)
    (folder / 'added_tokens.json').write_text('{"[PAD]": 99999}')
    with pytest.raises(ValueError, match=r"'\[PAD\]' the id 99999"):
        load_tokenizer(str(folder))


def only_json(tmp_path, model_file, **settings) -> Path:
    folder = folder_of(tmp_path, model_file, **settings)
    made = load_tokenizer(str(folder)).backend_tokenizer
    made.save(str(folder / 'tokenizer.json'))
    return folder


def test_folder_with_tokenizer_json_alone(tmp_path, model_file):
    folder = only_json(tmp_path, model_file, bos_token='')
    (folder / 'tokenizer.model').unlink()
    tokenizer = load_tokenizer(str(folder))
    pieces = SentencePieceProcessor(model_file=str(model_file))
    for text in (*texts(), 'a </s> b'):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert ids == pieces.encode(text), text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)


def test_contradicting_files_are_refused(tmp_path):
    folder = only_json(tmp_path, NANO)
    path = folder / 'tokenizer.json'
    content = json.loads(path.read_text())
    vocabulary = content['model']['vocab']
    one, other = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match='different vocabularies.*remove'):
        load_tokenizer(str(folder))


@pytest.mark.parametrize(
    'content',
    [b'', b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n'],
)
def test_other_file_instead_of_the_model_is_refused(tmp_path, content):
    folder = folder_of(tmp_path, NANO)
    (folder / 'tokenizer.model').write_bytes(content)
    with pytest.raises(ValueError, match='tokenizer.model .*(empty|LFS)'):
        load_tokenizer(str(folder))


@pytest.mark.parametrize('content', ['{', '[]', '[' * 100000])
def test_settings_that_are_no_json_are_refused(tmp_path, content):
    folder = folder_of(tmp_path, NANO)
    (folder / 'tokenizer_config.json').write_text(content)
    with pytest.raises(ValueError, match='tokenizer_config.json (is|holds)'):
        load_tokenizer(str(folder))


def test_special_tokens_of_other_tokenizers_are_plain_text(tmp_path):
    """A byte-level BPE with a special token, as GPT-2's."""
    backend = Tokenizer(models.BPE(unk_token=None))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=['<|end|>'],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(['the end of a text'], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token='<|end|>'
    ).save_pretrained(tmp_path)
    (tmp_path / 'config.json').write_text('{"model_type": "gpt2"}')
    tokenizer = load_tokenizer(str(tmp_path))
    end = tokenizer.eos_token_id
    text = 'the <|end|> of'
    assert end not in encode(tokenizer, text)
    assert tokenizer.decode(encode(tokenizer, text)) == text
    ids = encode(tokenizer, 'a<|end|><|end|>', [(8, 15)])
    assert (ids.count(end), ids[-1]) == (1, end)
    assert encode_answer(tokenizer, 'a<|end|>', '<|end|>') == ids
    # a tokenizer that was not loaded by us gives the same
    plain = AutoTokenizer.from_pretrained(tmp_path)
    assert encode(plain, text) == encode(tokenizer, text)


CHAT = '{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}'


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('chat_template.jinja', CHAT),
        ('chat_template.json', json.dumps(dict(chat_template=CHAT))),
        (
            'tokenizer_config.json',
            json.dumps(
                dict(tokenizer_class='LlamaTokenizer', chat_template=CHAT)
            ),
        ),
        (
            'tokenizer_config.json',
            json.dumps(
                dict(
                    tokenizer_class='LlamaTokenizer',
                    chat_template=[
                        dict(name='tools', template='x'),
                        dict(name='default', template=CHAT),
                    ],
                )
            ),
        ),
    ],
)
def test_chat_template_of_the_folder_is_read(
    tiny_tokenizer_dir, tmp_path, name, content
):
    folder = shutil.copytree(tiny_tokenizer_dir, tmp_path / 'llm')
    assert load_tokenizer(str(folder)).chat_template is None
    (folder / name).write_text(content)
    tokenizer = load_tokenizer(str(folder))
    messages = [dict(role='user', content='Hi')]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == '<s>Hi'


def test_chat_template_that_is_no_text_is_refused(
    tiny_tokenizer_dir, tmp_path
):
    folder = shutil.copytree(tiny_tokenizer_dir, tmp_path / 'llm')
    (folder / 'chat_template.jinja').write_bytes(b'\xff\xfe')
    with pytest.raises(ValueError, match='jinja is not UTF-8 text'):
        load_tokenizer(str(folder))
