# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Samples of stored results: their questions and truths."""

import pytest

from minigpt4.evaluation.compared_samples import (
    asked_question,
    compared_protocol,
)


@pytest.mark.parametrize(
    ('prompt', 'template', 'question'),
    [
        ('Is it red?', '{question}', 'Is it red?'),
        ('Q: Is it red? A:', 'Q: {question} A:', 'Is it red?'),
        ('Is it? One of a, b.', '{question} One of {choices}.', 'Is it?'),
        ('Is it red?', 'Q: {question}', None),
        ('ab', 'ab{question}b', None),
    ],
)
def test_the_question_of_a_prompt(prompt, template, question):
    assert asked_question(prompt, template, ['a', 'b']) == question


def test_the_choice_and_the_answers_are_shown():
    row = dict(
        id=3,
        image=5,
        file='5.jpg',
        prompt='Which?',
        choices=['cat', 'dog'],
        truth=dict(index=1),
        log_likelihoods=[-1.0, -2.5],
    )
    settings = dict(prompt='{question}')
    sample = compared_protocol('aokvqa').sample(row, settings, {}, {})
    assert (sample.truth, sample.text, sample.good) == ('dog', 'cat', False)
    assert sample.note == 'wrong; cat -1.000, dog -2.500'
    row = dict(
        id=3,
        image=5,
        file='5.jpg',
        prompt='Which?',
        truth=dict(answers=['cat'] * 2 + ['dog'] * 8),
        answer='cat',
    )
    sample = compared_protocol('vqav2').sample(row, settings, {}, {})
    assert sample.truth == 'dog (8), cat (2)'
    # eight annotators have two others, two have one
    assert sample.counts['correct'] == pytest.approx(0.6)
    assert sample.good and sample.note == 'right, accuracy 0.60'
