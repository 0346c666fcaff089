"""Codes that providers define themselves are classified, whatever their status and words are."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from agentopt.core.errors import MalformedResponseError, ModelError, TransientModelError, UnsupportedParameterError
from agentopt.models.api_errors import model_error
from agentopt.models.error_codes import MEANINGS
from agentopt.models.response_body import read_completion

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
