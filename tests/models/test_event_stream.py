"""Server-sent events as servers write them: split data, every line end, comments, pings, a missing end."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.errors import MalformedResponseError
from agentopt.models.event_stream import EventReader, text_in
from agentopt.models.response_body import read_body


def data_of(text: str, reason: str | None = None, indent: int | None = None) -> str:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    return json.dumps({"choices": [choice]}, indent=indent)


HEAD, TAIL = data_of("It is "), data_of("9", "stop")


def split(text: str) -> str:
    """The JSON text over several `data:` lines."""
    return "".join(f"data: {line}\n" for line in text.splitlines())


WRITTEN = {
    "plainly": f"data: {HEAD}\n\ndata: {TAIL}\n\ndata: [DONE]\n\n",
    "without a space": f"data:{HEAD}\n\ndata:{TAIL}\n\ndata:[DONE]\n\n",
    "each event over lines": f"{split(data_of('It is ', indent=2))}\n{split(data_of('9', 'stop', indent=2))}\n",
    "a line for each key": 'data: {\ndata: "choices":\n'
    f"data: {json.dumps(json.loads(HEAD)['choices'])}\ndata: }}\n\ndata: {TAIL}\n\n",
    "an empty data line within": f'data: {{"choices":\ndata\ndata: {HEAD[12:]}\n\ndata: {TAIL}\n\n',
    "over lines, and no empty line at the end": f"data: {HEAD}\n\n{split(data_of('9', 'stop', indent=1))}",
    "no empty line at the end": f"data: {HEAD}\n\ndata: {TAIL}\n",
    "no line end at the end": f"data: {HEAD}\n\ndata: {TAIL}",
    "no empty lines": f"data: {HEAD}\ndata: {TAIL}\ndata: [DONE]\n",
    "[DONE] after an event over lines": f"data: {HEAD}\n\n{split(data_of('9', indent=1))}data: [DONE]\n\n",
    "comments": f": hello\n\ndata: {HEAD}\n: within\n\n:\ndata: {TAIL}\n\n",
    "a comment within an event over lines": f'data: {{"choices":\n: PROCESSING\ndata: {HEAD[12:]}\n\ndata: {TAIL}\n\n',
    "event, id and retry": f"retry: 3000\nevent: message\nid: 1\ndata: {HEAD}\n\nid: 2\ndata: {TAIL}\nevent: end\n\n",
    "an id first": f"id: 1\ndata: {HEAD}\n\nid: 2\ndata: {TAIL}\n\n",
    "a retry first": f"retry: 3000\n\ndata: {HEAD}\n\ndata: {TAIL}\n\n",
    "names of its own": f"event: completion.chunk\ndata: {HEAD}\n\nevent: completion.chunk\ndata: {TAIL}\n\n",
    "pings": f"event: ping\ndata: still here\n\ndata: {HEAD}\n\nevent: ping\ndata: {{}}\n\ndata:\n\ndata: {TAIL}\n\n",
    "fields that nobody knows": f"data: {HEAD}\nmeta: 1\nodd\n\ndata: {TAIL}\n\n",
    "a byte order mark": f"\ufeffdata: {HEAD}\n\ndata: {TAIL}\n\n",
    "a byte order mark and a comment": f"\ufeff: hello\n\ndata: {HEAD}\n\ndata: {TAIL}\n\n",
}


@pytest.mark.parametrize("content_type", ["text/event-stream", ""])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("written", WRITTEN)
def test_a_stream_is_read_as_servers_write_it(written: str, end: str, content_type: str) -> None:
    stream = WRITTEN[written].replace("\n", end).encode()
    (choice,) = read_body(stream, most=1, content_type=content_type).choices
    assert (choice.text, choice.finish_reason) == ("It is 9", "stop")


def live_text(stream: bytes, ends: list[int]) -> str:
    reader, places = EventReader(), [0, *sorted(end % (len(stream) + 1) for end in ends), len(stream)]
    parts = [stream[start:end] for start, end in pairwise(places)]
    return "".join(text_in(data) for part in parts for data in reader.feed(part))


@given(
    st.sampled_from(["plainly", "each event over lines", "comments", "a byte order mark", "no empty lines"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(min_value=0, max_value=2000), max_size=12),
)
def test_the_text_is_the_same_wherever_the_body_is_divided(written: str, end: str, ends: list[int]) -> None:
    assert live_text(WRITTEN[written].replace("\n", end).encode(), ends) == "It is 9"


def test_an_event_over_lines_ends_at_an_empty_line_after_a_divided_line_end() -> None:
    reader = EventReader()
    parts = [b'data: {"a":\r', b"\n", b"data: 1}\r", b"\n", b"\r", b"\n"]
    assert [list(reader.feed(part)) for part in parts] == [[], [], [], [], [b'{"a":\n1}'], []]


def test_an_event_of_one_line_is_passed_on_before_the_empty_line() -> None:
    reader = EventReader()
    assert list(reader.feed(f"data: {HEAD}\n".encode())) == [HEAD.encode()]


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        ('event: error\ndata: {"error": {"message": "no credit left"}}', "no credit left"),
        ('event: error\ndata: {"message": "no credit left", "code": 402}', "no credit left"),
        ('event: error\ndata: {"type": "error",\ndata: "error": {"message": "no credit left"}}', "no credit left"),
        ('event: error\ndata: [{"error": {"message": "no credit left"}}]', "no credit left"),
        ("event: error\ndata: no credit\ndata: left", "no credit\nleft"),
        ("event: error\ndata: {}", "an error without words"),
    ],
)
@pytest.mark.parametrize("before", ["", f"data: {HEAD}\n\n", f"data: {TAIL}\n\n"])
def test_an_error_event_is_an_error_in_the_providers_words(stream: str, words: str, before: str) -> None:
    with pytest.raises(MalformedResponseError, match=f"^{words}") as caught:
        read_body(f"{before}{stream}\n\n".encode(), most=1)
    assert caught.value.error is not None


@pytest.mark.parametrize(
    "stream",
    [
        f"data: {HEAD}\n\ndata: {TAIL[:-1]}\n\n",
        f"data: {HEAD}\n\ndata: {TAIL[:-1]}",
        f"data: {HEAD}\n\nevent: chunk\ndata: {TAIL[:-1]}\n\ndata: [DONE]\n\n",
        f"data: {HEAD[:20]}\n\ndata: {HEAD[20:]}\n\ndata: {TAIL}\n\n",
        f"data: {HEAD}\n\ndata: still here\n\ndata: {TAIL}\n\n",
    ],
)
def test_data_that_is_broken_json_is_malformed(stream: str) -> None:
    with pytest.raises(MalformedResponseError, match="not JSON"):
        read_body(stream.encode(), most=1)
