"""What a page of the package's small servers sends, header by header."""

from __future__ import annotations

import http.client
from collections.abc import Mapping


def request(
    host: str, port: int, path: str, body: bytes | None, headers: Mapping[str, str | None],
    changes: Mapping[str, str | None],
) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of the answer; `changes` replaces headers (None leaves one out)."""
    connection = http.client.HTTPConnection(host, port, timeout=120)
    sent = {**headers, **({} if body is None else {"Content-Length": str(len(body))}),
            **{name.replace("_", "-"): value for name, value in changes.items()}}
    try:
        connection.putrequest("GET" if body is None else "POST", path, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read(), {key.lower(): value for key, value in answer.getheaders()}
    finally:
        connection.close()
