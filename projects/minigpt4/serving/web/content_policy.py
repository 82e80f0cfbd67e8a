# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The Content-Security-Policy of the web page: it loads nothing external."""

from typing import Any

_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "frame-ancestors 'self'"
)


class ContentPolicy:
    """ASGI middleware that adds the security headers to each response.

    Args:
        app: The application.
        policy: The value of the header; by default that of Gradio's page,
            which needs inline scripts.
    """

    def __init__(self, app: Any, policy: str = _POLICY) -> None:
        self.app = app
        self.policy = policy.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle a request."""

        async def send_with_headers(message: dict[str, Any]) -> None:
            if message['type'] == 'http.response.start':
                message['headers'] = [
                    *message.get('headers', ()),
                    (b'content-security-policy', self.policy),
                    (b'referrer-policy', b'same-origin'),
                ]
            await send(message)

        await self.app(scope, receive, send_with_headers)
