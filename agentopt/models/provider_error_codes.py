"""Error codes that providers define themselves, and the HTTP statuses that mean the same.

Some providers send their codes in a response with status 200, or under a status that means something else: Zhipu's
status of an account in arrears is 429, DashScope's is 400. Codes that a status or a message already explains are not
listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

Meaning = int | Literal["content filter", "context length"]
"""An HTTP status, or what the provider found in the content of the example."""


def _codes(prefix: str, by_meaning: Mapping[Meaning, str]) -> dict[str, Meaning]:
    return {prefix + code: meaning for meaning, codes in by_meaning.items() for code in codes.split()}


MEANINGS: Mapping[str, Meaning] = {
    # MiniMax: https://platform.minimax.io/docs/api-reference/errorcode
    **_codes(
        "base_resp ",
        {
            400: "1042 2013",
            401: "1004 2049",
            402: "1008",
            429: "1002 1039 1041 2045 2056",
            500: "1000 1001 1024 1033",
            "content filter": "1026 1027",
        },
    ),
    # Zhipu and Z.AI: https://docs.z.ai/api-reference/api-code
    **_codes(
        "",
        {
            400: "1210 1213 1214 1215",
            401: "1000 1001 1002 1003 1004",
            402: "1113 1304 1309",
            403: "1110 1111 1112 1121 1220 1311",
            404: "1211 1212 1221 1222",
            429: "1302 1303 1305 1308 1310 1312 1313",
            500: "1120 1200 1230 1234",
            "content filter": "1300 1301",
            "context length": "1261",
        },
    ),
    # Baidu Qianfan, first version: https://ai.baidu.com/ai-doc/WENXINWORKSHOP/tlmyncueh
    **_codes(
        "error_code ",
        {
            400: "336001 336002 336003",
            401: "13 14 100 110 111",
            402: "17 19",
            403: "6",
            404: "3",
            429: "4 18 336100 336501 336502",
            500: "1 2 15 336000",
            "context length": "336103",
        },
    ),
    # DashScope (https://help.aliyun.com/en/model-studio/error-code), Volcengine Ark
    # (https://www.volcengine.com/docs/82379/1299023), Baidu Qianfan, second version
    # (https://cloud.baidu.com/doc/qianfan-api/s/rmwbl43x7), Moonshot, Huawei MaaS and Azure.
    **_codes(
        "",
        {
            401: "InvalidApiKey AuthenticationError invalid_iam_token",
            402: "Arrearage AccountOverdueError exceeded_current_quota_error BILLING_INSUFFICIENT_BALANCE",
            403: "AccessDenied access_denied",
            404: "ModelNotFound ModelNotOpen InvalidEndpointOrModel DeploymentNotFound",
            429: "Throttling RateLimitExceeded ServerOverloaded rpm_rate_limit_exceeded tpm_rate_limit_exceeded "
            "engine_overloaded_error rate_limit_reached_error",
            "content filter": "DataInspectionFailed data_inspection_failed SensitiveContentDetected "
            "InputTextSensitiveContentDetected OutputTextSensitiveContentDetected InputTextRiskDetection "
            "OutputTextRiskDetection unsafe_request ModelArts.81011 ResponsibleAIPolicyViolation",
            "context length": "tokens_too_long characters_too_long",
        },
    ),
}
"""Code -> what it means. The codes of MiniMax and of Baidu's first version, which other providers use for other
errors, are preceded by the key that they are sent under."""

RPC_STATUSES: Mapping[str, int] = {
    **dict.fromkeys(("3", "INVALID_ARGUMENT", "9", "FAILED_PRECONDITION", "11", "OUT_OF_RANGE"), 400),
    **dict.fromkeys(("16", "UNAUTHENTICATED"), 401),
    **dict.fromkeys(("7", "PERMISSION_DENIED"), 403),
    **dict.fromkeys(("5", "NOT_FOUND", "12", "UNIMPLEMENTED"), 404),
    **dict.fromkeys(("6", "ALREADY_EXISTS", "10", "ABORTED"), 409),
    **dict.fromkeys(("8", "RESOURCE_EXHAUSTED"), 429),
    **dict.fromkeys(("1", "CANCELLED", "2", "UNKNOWN", "13", "INTERNAL", "15", "DATA_LOSS"), 500),
    **dict.fromkeys(("14", "UNAVAILABLE"), 503),
    **dict.fromkeys(("4", "DEADLINE_EXCEEDED"), 504),
}
"""Code or name of Google's RPC errors -> HTTP status (`google/rpc/code.proto`). They have no meaning of their own
beside an HTTP status, which is mapped from them."""


def meaning_of(error: Mapping[str, Any], status: int | None) -> Meaning | None:
    """Return what an error object means according to its code.

    Args:
        error: The provider's error object.
        status: HTTP status of the response; None if that was a success.

    Returns:
        The listed meaning of the code; `status` if it is not listed.
    """
    codes = list(_codes_in(error))
    for code in codes:
        if found := MEANINGS.get(code) or MEANINGS.get(code.partition(".")[0]):
            return found
    return status or next((RPC_STATUSES[code] for code in codes if code in RPC_STATUSES), None)


def _codes_in(error: Mapping[str, Any]) -> Iterator[str]:
    """Yield the codes of an error, the most specific first. Numbers are RPC codes; all other codes are texts."""
    inner = error.get("innererror")
    fields = (inner if isinstance(inner, Mapping) else {}, error)
    values = [field.get(key) for field in fields for key in ("code", "type", "status")]
    for value in values:
        if isinstance(value, str) or (isinstance(value, int) and 0 < value <= 16):
            yield str(value)
