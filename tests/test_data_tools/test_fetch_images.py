# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images of URLs are fetched, with a reason for each that is not."""

import http.server
import io
import json
import threading

import pytest
from PIL import Image

from minigpt4_cli.main import main

pytest.importorskip('httpcore')


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.requests.append(self.path)
        buffer = io.BytesIO()
        Image.new('RGB', (8, 8), len(self.path)).save(buffer, 'PNG')
        body = buffer.getvalue()
        if self.path == '/page':
            body = b'<html>'
        self.send_response(404 if self.path == '/gone' else 200)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.requests = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize('stage', ['stage1', 'stage2'])
def test_urls_are_fetched(tmp_path, server, stage):
    url = f'http://127.0.0.1:{server.server_port}'
    names = ('a.jpg', 'b', 'gone', 'page', 'a.jpg')
    rows = [f'{url}/{name},text {i}' for i, name in enumerate(names)]
    rows.append('http://192.168.0.1/x,private')
    (tmp_path / 'a.csv').write_text('\n'.join(['url,text', *rows]))
    out = tmp_path / 'out'
    arguments = ['data', 'import', str(tmp_path / 'a.csv'), '-o', str(out)]
    arguments += ['--to', stage, '-q']
    assert main([*arguments, '--fetch']) == 1  # private hosts are refused
    assert not server.requests
    assert main([*arguments, '--fetch-from', '127.0.0.1']) == 0
    assert server.requests.count('/a.jpg') == 1
    lines = (out / 'skipped.jsonl').read_text().splitlines()
    reasons = {row['line']: row['reason'] for row in map(json.loads, lines)}
    assert sorted(reasons) == [4, 5, 7]
    assert 'answered with status 404' in reasons[4]
    assert 'is no image' in reasons[5]
    assert 'not fetched from 192.168.0.1' in reasons[7]
    if stage == 'stage2':
        records = json.loads((out / 'filter_cap.json').read_text())
        assert [r['caption'] for r in records] == [
            'text 0',
            'text 1',
            'text 4',
        ]
        assert records[0]['image'] == records[2]['image']
        assert Image.open(records[1]['image']).size == (8, 8)
    else:
        assert [p.name for p in out.glob('*.tar')] == ['00000.tar']


def test_without_the_option_urls_are_skipped(tmp_path, capsys):
    (tmp_path / 'a.csv').write_text('url,text\nhttp://127.0.0.1/a,b\n')
    out = str(tmp_path / 'out')
    assert main(['data', 'import', str(tmp_path / 'a.csv'), '-o', out]) == 1
    assert 'fetch such images with --fetch' in capsys.readouterr().err
