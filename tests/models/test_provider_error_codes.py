"""Codes that providers define themselves are classified, whatever their status and words are."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from agentopt.core.errors import MalformedResponseError, ModelError, TransientModelError, UnsupportedParameterError
from agentopt.models.api_errors import model_error
from agentopt.models.provider_error_codes import MEANINGS
from agentopt.models.response_body import read_body, read_completion

CREDIT, KEY, NAME = "add credit", "check the API key", "check the model's name"


def failure_of(body: Any, status: int = 200, sent: dict[str, Any] | None = None) -> ModelError:
    """The failure that a response becomes."""
    if status == 200:
        with pytest.raises(MalformedResponseError) as caught:
            read_completion(body, most=1)
        error: Exception = caught.value
    else:
        request = httpx.Request("POST", "http://127.0.0.1/v1")
        error = httpx.HTTPStatusError(
            "no", request=request, response=httpx.Response(status, json=body, request=request)
        )
    failure = model_error(error, who="m", body=sent)
    assert failure
    return failure


def minimax(code: int, words: str) -> dict[str, Any]:
    return {"choices": None, "base_resp": {"status_code": code, "status_msg": words}}


def zhipu(code: str, words: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": words}}


def baidu(code: int, words: str) -> dict[str, Any]:
    return {"error_code": code, "error_msg": words}


def google(code: int, name: str, words: str) -> list[dict[str, Any]]:
    return [{"error": {"code": code, "message": words, "status": name}}]


AZURE_FILTER = {
    "error": {
        "message": "La réponse a été filtrée.",
        "type": None,
        "param": "prompt",
        "code": "BadRequest",
        "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}},
    }
}
GEMINI_RATE = "You exceeded your current quota, please check your plan and billing details. Please retry in 31.6s."
CASES: list[tuple[int, Any, str, str]] = [
    (200, minimax(1004, "login fail"), "model", KEY),
    (200, minimax(2049, "wrong"), "model", KEY),
    (200, minimax(1008, "balance"), "model", CREDIT),
    (200, minimax(1002, "limit"), "transient", ""),
    (200, minimax(1039, "token limit"), "transient", ""),
    (200, minimax(1000, "unknown error"), "transient", ""),
    (200, minimax(1026, "input new_sensitive"), "example", "content filter"),
    (200, minimax(1042, "invisible character ratio limit"), "example", "error in the response"),
    (429, zhipu("1113", "您的账户已欠费,请充值后重试"), "model", CREDIT),
    (200, zhipu("1113", "您的账户已欠费,请充值后重试"), "model", CREDIT),
    (429, zhipu("1302", "您当前使用该 API 的并发数过高"), "transient", ""),
    (400, zhipu("1301", "系统检测到输入可能包含敏感内容"), "example", "content filter"),
    (400, zhipu("1261", "Prompt 超长"), "example", "context length"),
    (400, zhipu("1211", "模型不存在,请检查模型代码"), "model", NAME),
    (400, zhipu("1210", "API 调用参数有误"), "example", "HTTP 400"),
    (200, zhipu("1002", "Authentication Token 非法"), "model", KEY),
    (200, baidu(110, "Access token invalid or no longer valid"), "model", KEY),
    (200, baidu(17, "Open api daily request limit reached"), "model", CREDIT),
    (200, baidu(18, "Open api qps request limit reached"), "transient", ""),
    (200, baidu(6, "No right to data"), "model", "permissions"),
    (200, baidu(336103, "the max length"), "example", "context length"),
    (200, baidu(336001, "Invalid Argument"), "example", "error in the response"),
    (400, {"error": {"code": "tokens_too_long", "message": "no"}}, "example", "context length"),
    (400, {"error": {"code": "p", "type": "unsafe_request", "message": "no"}}, "example", "content filter"),
    (400, {"code": "Arrearage", "message": "Access denied, is your account in good standing?"}, "model", CREDIT),
    (400, {"error": {"code": "Arrearage", "type": "Arrearage", "message": "Access denied"}}, "model", CREDIT),
    (400, {"code": "DataInspectionFailed", "message": "Inappropriate content."}, "example", "content filter"),
    (200, {"code": "Throttling.RateQuota", "message": "Requests rate limit exceeded"}, "transient", ""),
    (200, {"code": "InvalidApiKey", "message": "no"}, "model", KEY),
    (403, {"error": {"code": "AccountOverdueError", "type": "Forbidden", "message": "no"}}, "model", CREDIT),
    (400, {"error": {"code": "InputTextSensitiveContentDetected.Policy", "message": "n"}}, "example", "content filter"),
    (403, {"error_code": "ModelArts.81011", "error_msg": "May be sensitive"}, "example", "content filter"),
    (429, {"error": {"type": "exceeded_current_quota_error", "message": "no"}}, "model", CREDIT),
    (429, {"error": {"type": "engine_overloaded_error", "message": "no"}}, "transient", ""),
    (400, AZURE_FILTER, "example", "content filter"),
    (400, {"error": {"code": "content_filter", "message": "no"}}, "example", "content filter"),
    (404, {"error": {"code": "DeploymentNotFound", "message": "no"}}, "model", NAME),
    (200, {"code": 16, "message": "no", "details": []}, "model", KEY),
    (200, {"code": 8, "message": "no", "details": []}, "transient", ""),
    (200, {"code": 3, "message": "no", "details": []}, "example", "error in the response"),
    (200, {"error": {"message": "no", "status": "PERMISSION_DENIED"}}, "model", "permissions"),
    (200, {"error": {"message": "no", "status": "UNAVAILABLE"}}, "transient", ""),
    (429, google(429, "RESOURCE_EXHAUSTED", GEMINI_RATE), "transient", ""),
    (429, {"error": {"code": "insufficient_quota", "message": GEMINI_RATE[:50]}}, "model", ""),
    (400, google(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."), "model", ""),
    (400, google(400, "INVALID_ARGUMENT", "API key expired. Please renew the API key."), "model", ""),
    (
        400,
        google(400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum"),
        "example",
        "context length",
    ),
    (400, {"error": {"message": "Your request exceeded model token limit: 9"}}, "example", "context length"),
    (500, {"code": 7, "message": "no"}, "transient", ""),
    (200, {"code": 1113, "message": "another provider's number"}, "transient", ""),
]


@pytest.mark.parametrize(("status", "body", "scope", "words"), CASES)
def test_a_code_is_classified(status: int, body: Any, scope: str, words: str) -> None:
    failure = failure_of(body, status)
    assert (failure.scope, isinstance(failure, TransientModelError)) == (scope, scope == "transient")
    assert words in (failure.kind if scope == "example" else str(failure))


def words(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", **fields}}


@pytest.mark.parametrize(
    ("status", "body", "scope", "kind"),
    [
        (400, words("User location is not supported for the API use."), "model", "HTTP 400"),
        (403, words("Country, region, or territory not supported"), "model", "HTTP 403"),
        (200, words("Region not available for this account"), "model", "error in the response"),
        (400, words("This organization has been disabled."), "model", "HTTP 400"),
        (400, words("You have reached your specified API usage limits."), "model", "HTTP 400"),
        (400, words("m is not a valid model ID"), "model", "HTTP 400"),
        (400, words("The model `m` has been decommissioned."), "model", "HTTP 400"),
        (400, {"message": "The provided model identifier is invalid."}, "model", "HTTP 400"),
        (400, {"message": "Invocation with on-demand throughput isn't supported."}, "model", "HTTP 400"),
        (400, words("The server is currently overloaded"), "transient", "HTTP 400"),
        (403, words("Rate limit exceeded"), "transient", "HTTP 403"),
        (424, {"message": "Model error"}, "transient", "HTTP 424"),
        (498, words("capacity exceeded"), "transient", "HTTP 498"),
        (499, {}, "transient", "HTTP 499"),
        (529, words("Overloaded"), "transient", "HTTP 529"),
        (413, words("Request exceeds the maximum size"), "example", "HTTP 413"),
        (413, words("Request too large on tokens per minute: Limit 6, Requested 8"), "example", "context length"),
        (429, words("Request too large on tokens per min: Limit 3, Requested 4."), "example", "context length"),
        (422, words("`inputs` tokens + `max_new_tokens` must be <= 4096"), "example", "context length"),
        (400, words("input length and `max_tokens` exceed context limit: 19 + 2 > 20"), "example", "context length"),
    ],
)
def test_a_refusal_is_classified_by_its_words(status: int, body: Any, scope: str, kind: str) -> None:
    failure = failure_of(body, status, {"model": "m", "messages": [], "max_tokens": 5})
    assert (failure.scope, failure.kind) == (scope, kind)


@pytest.mark.parametrize("status", [401, 403, 404, 413, 502, 503])
@pytest.mark.parametrize(
    "page",
    [
        "<html><head><title>Not here</title><style>b {}</style></head><body>\n<h1>Not here</h1></body></html>",
        "<!DOCTYPE html><script>let a = 1</script><p>Not&nbsp;here</p><!-- <b> -->",
        "\n<center>Not here<br",
        "Not here",
    ],
)
def test_a_page_is_reported_in_its_words_without_tags(status: int, page: str) -> None:
    request = httpx.Request("POST", "http://127.0.0.1/v1")
    response = httpx.Response(status, text=page, request=request)
    failure = model_error(httpx.HTTPStatusError("no", request=request, response=response), who="m")
    assert failure
    assert re.fullmatch(r"(Not here ?){1,2}", failure.provider_message)
    assert failure.scope == ("model" if status < 405 else "example" if status < 500 else "transient")


def test_a_page_with_status_200_is_no_completion_and_is_quoted() -> None:
    with pytest.raises(MalformedResponseError, match="a page, not JSON: Sign in; is base_url the API's"):
        read_body(b"\n<html><body><h1>Sign in</h1></body></html>", most=1)


@pytest.mark.parametrize(
    ("status", "headers", "error", "seconds"),
    [
        (429, {"x-ratelimit-reset": "86400"}, {}, 86400),
        (429, {"X-RateLimit-Reset-Requests": "1h0m0s", "x-ratelimit-remaining-requests": "0"}, {}, 3600),
        (429, {"x-ratelimit-reset-requests": "1h0m0s", "x-ratelimit-remaining-requests": "9"}, {}, None),
        (
            429,
            {"anthropic-ratelimit-tokens-reset": "2999-01-01T00:00:00Z", "anthropic-ratelimit-tokens-remaining": "0"},
            {},
            "long",
        ),
        (429, {"retry-after": "2", "x-ratelimit-reset": "86400"}, {}, 2),
        (500, {"x-ratelimit-reset": "86400"}, {}, None),
        (429, {}, {"metadata": {"headers": {"X-RateLimit-Reset": "99999999999999"}}}, "long"),
        (429, {}, {"details": [{"@type": "x"}, {"@type": "RetryInfo", "retryDelay": "34.5s"}]}, 34.5),
        (429, {}, {"details": [1, None], "metadata": {"headers": [1]}}, None),
    ],
)
def test_the_wait_is_read_from_headers_and_from_the_error(
    status: int, headers: dict[str, str], error: Any, seconds: float | str | None
) -> None:
    request = httpx.Request("POST", "http://127.0.0.1/v1")
    response = httpx.Response(status, json={"error": {"message": "no", **error}}, headers=headers, request=request)
    failure = model_error(httpx.HTTPStatusError("no", request=request, response=response), who="m")
    assert isinstance(failure, TransientModelError)
    if seconds == "long":
        assert failure.retry_after
        assert failure.retry_after > 1e9
    else:
        assert failure.retry_after == seconds


@pytest.mark.parametrize(
    ("message", "parameter"),
    [
        ("`temperature` and `top_p` cannot both be specified for this model.", "top_p beside temperature"),
        ("You may alter temperature or top_p but not both", "top_p beside temperature"),
        ("top_p and temperature are mutually exclusive", "top_p beside temperature"),
        ("Only one of temperature and top_p can be set", "top_p beside temperature"),
        ("top_p: Extra inputs are not permitted", "top_p"),
        ("Extra parameters ['seed', 'top_p', 'temperature'] are not allowed", "top_p"),
        ("Parallel tool calls are not supported", "parallel_tool_calls"),
        ("parallel_tool_calls must be false for tools", "parallel_tool_calls"),
        ("Multiple candidates is not enabled for this model", "n"),
        ("candidateCount must be 1", "n"),
        ("The schema is too complex: too many states", "strict"),
        ("'$ref' cannot have keywords: invalid schema for response_format", "strict"),
    ],
)
def test_a_refused_parameter_is_found_in_the_words(message: str, parameter: str) -> None:
    sent = {
        "temperature": 0.5,
        "top_p": 0.9,
        "n": 3,
        "tools": [{}],
        "parallel_tool_calls": True,
        "response_format": {"json_schema": {"strict": True}},
    }
    failure = failure_of(words(message), 400, sent)
    assert isinstance(failure, UnsupportedParameterError)
    assert failure.parameter == parameter


VERIFY = "Your organization must be verified to stream this model. If you just verified, it can take up to 15 minutes."


@pytest.mark.parametrize(
    ("message", "param", "parameter"),
    [
        (VERIFY, "stream", "streaming"),
        (VERIFY, None, "streaming"),
        ("Unsupported value: 'stream' does not support true with this model.", "stream", "streaming"),
        ("Streaming is not supported for this model", None, "streaming"),
        ("stream: only false is allowed", None, "streaming"),
        ("Cannot use tools with stream", None, "streaming"),
        ("response_format is not supported in streaming mode", None, "streaming"),
        ("Unknown parameter: 'stream_options'", "stream_options", "stream_options"),
        ("stream_options is not supported when stream is true", None, "stream_options"),
        ("temperature is not supported when streaming", None, "temperature"),
        ("tools are not supported by this upstream", None, "tools"),
    ],
)
def test_a_refused_stream_is_found_in_the_words(message: str, param: str | None, parameter: str) -> None:
    sent = {
        "temperature": 0.5,
        "tools": [{}],
        "response_format": {"json_schema": {"strict": True}},
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    failure = failure_of({"error": {"message": message, "param": param}}, 400, sent)
    assert isinstance(failure, UnsupportedParameterError)
    assert failure.parameter == parameter


def test_the_wait_of_a_limit_on_the_rate_is_read() -> None:
    failure = failure_of(google(429, "RESOURCE_EXHAUSTED", GEMINI_RATE), 429)
    assert isinstance(failure, TransientModelError)
    assert failure.retry_after == 31.6


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, minimax(2013, "invalid params, top_p is not supported")),
        (400, zhipu("1210", "top_p 参数 is not supported")),
        (400, {"object": "error", "message": "not supported", "param": "top_p", "code": 400}),
    ],
)
def test_a_refused_parameter_is_found_beside_a_code(status: int, body: Any) -> None:
    failure = failure_of(body, status, {"top_p": 0.5})
    assert isinstance(failure, UnsupportedParameterError)
    assert failure.parameter == "top_p"


def test_an_account_without_credit_is_no_refused_parameter() -> None:
    failure = failure_of(zhipu("1113", "no credit, so top_p is not supported"), 400, {"top_p": 0.5})
    assert failure.scope == "model"


def test_the_same_number_means_different_things_of_different_providers() -> None:
    assert (MEANINGS["base_resp 1002"], MEANINGS["1002"]) == (429, 401)


@pytest.mark.parametrize("page", ["404: Not Found", "404 Not Found", "Not Found"])
def test_a_status_is_not_repeated(page: str) -> None:
    request = httpx.Request("POST", "http://127.0.0.1:9/v1")
    response = httpx.Response(404, text=page, request=request)
    failure = model_error(httpx.HTTPStatusError("no", request=request, response=response), who="m")
    assert str(failure).startswith("m: HTTP 404: Not Found")
