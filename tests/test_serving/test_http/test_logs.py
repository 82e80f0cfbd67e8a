# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Texts of requests add no lines and no escape sequences to the log."""

import logging

import pytest

pytest.importorskip('uvicorn', reason='needs minigpt4[serve]')

from minigpt4.serving.http.logs import (
    PrintableAccessFormatter,
    PrintableFormatter,
    log_config,
)

HOSTILE = 'a\nINFO: forged\x1b[31m\r\x07\x9b31m\u202e\u2028b'


def record(msg: str, *args, **settings) -> logging.LogRecord:
    return logging.LogRecord('a', logging.INFO, 'f', 1, msg, args, None)


def clean(line: str) -> bool:
    return not any(
        char in line for char in '\n\r\x1b\x07\x9b\u202e\u2028'
    ) and ('forged' in line)


@pytest.fixture
def plain():
    return PrintableFormatter('%(levelprefix)s %(message)s', use_colors=False)


def test_a_message_is_one_printable_line(plain):
    assert clean(plain.format(record('%s', HOSTILE)))
    assert clean(plain.format(record(HOSTILE)))
    assert clean(plain.format(record('%s: %d', ValueError(HOSTILE), 3)))
    named = record('%(name)s')
    named.args = {'name': HOSTILE}
    assert clean(plain.format(named))
    assert plain.format(record('ä %s', 'é')) == 'INFO:     ä é'


def test_the_access_log_is_one_printable_line():
    """Uvicorn logs X-Forwarded-For unchanged (CVE-2020-7694, fojin #545)."""
    formatter = PrintableAccessFormatter(
        '%(client_addr)s "%(request_line)s" %(status_code)s', use_colors=False
    )
    form = '%s - "%s %s HTTP/%s" %d'
    line = formatter.format(record(form, HOSTILE, 'GET', '/a', '1.1', 200))
    assert clean(line) and line.endswith('"GET /a HTTP/1.1" 200 OK')
    line = formatter.format(record(form, '::1:9', HOSTILE, '/a', '1.1', 404))
    assert clean(line)


def test_a_traceback_keeps_its_own_line_breaks_only(plain):
    try:
        raise ValueError(HOSTILE.replace('\n', ' '))
    except ValueError:
        import sys

        one = record('failed')
        one.exc_info = sys.exc_info()
    text = plain.format(one)
    assert text.count('\n') > 2 and '\x1b' not in text and '\x9b' not in text


def test_all_loggers_of_uvicorn_escape():
    config = log_config('WARNING')
    assert all(
        'Printable' in each['()'] for each in config['formatters'].values()
    )
    assert {each['level'] for each in config['loggers'].values()} == {
        'WARNING'
    }
