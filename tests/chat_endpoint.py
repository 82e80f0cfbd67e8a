# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A server on the loopback that answers chat completions as a test asks."""

import contextlib
import http.server
import json
import threading
import time


def completion(text, reason='stop', tokens=(100, 50)):
    """The body of a chat completion."""
    return {
        'id': 'x',
        'object': 'chat.completion',
        'created': 1,
        'model': 'm',
        'choices': [
            {
                'index': 0,
                'finish_reason': reason,
                'message': {'role': 'assistant', 'content': text},
            }
        ],
        'usage': tokens
        and {
            'prompt_tokens': tokens[0],
            'completion_tokens': tokens[1],
            'total_tokens': sum(tokens),
        },
    }


def draft_of(message):
    """The paragraph of a message."""
    return message.partition('\n\n')[2]


class Endpoint:
    """The server.

    Attributes:
        answer: Called with the message; returns a text, or status, headers
            and body (a dict is sent as JSON).
        messages: All messages, in the order of their arrival.
        bodies: The JSON of each request.
        times: When each arrived, in seconds.
        most: The most requests at the same time.
        models: Status, headers and body of the list of models.
    """

    def __init__(self, answer):
        self.answer = answer
        model = dict(id='m', object='model', created=1, owned_by='me')
        self.models = 200, {}, dict(object='list', data=[model])
        self.messages, self.bodies, self.times, self.keys = [], [], [], []
        self.most = self._now = 0
        self._lock = threading.Lock()

    def respond(self, body, key):
        message = body['messages'][-1]['content']
        with self._lock:
            self.messages.append(message)
            self.bodies.append(body)
            self.times.append(time.monotonic())
            self.keys.append(key)
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            found = self.answer(message)
        finally:
            with self._lock:
                self._now -= 1
        if isinstance(found, str):
            found = 200, {}, completion(found)
        return found


@contextlib.contextmanager
def chat_endpoint(answer=draft_of):
    """Run an :class:`Endpoint`; its ``url`` is the base URL."""
    endpoint = Endpoint(answer)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'

        def log_message(self, *args):
            pass

        def do_GET(self):
            self.send(*endpoint.models)

        def do_POST(self):
            length = int(self.headers['Content-Length'])
            body = json.loads(self.rfile.read(length))
            self.send(
                *endpoint.respond(body, self.headers.get('Authorization'))
            )

        def send(self, status, headers, content):
            if isinstance(content, dict):
                headers = {'Content-Type': 'application/json', **headers}
                content = json.dumps(content)
            content = content.encode()
            with contextlib.suppress(OSError):  # the client has gone
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header('Content-Length', str(len(content)))
                self.end_headers()
                self.wfile.write(content)

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request, address):
            pass  # a client was killed

    server = Server(('127.0.0.1', 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    endpoint.url = f'http://127.0.0.1:{server.server_port}/v1'
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
