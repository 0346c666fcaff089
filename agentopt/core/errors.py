"""Every exception that agentopt raises, as one tree.

AgentoptError
├── UserError                 a mistake in the request: the command line prints it and exits with 2
│   ├── TaskError             a task folder, or a part of a task that is built in Python
│   │   └── UnknownSubtaskError   a name that is not that of a subtask
│   ├── ConfigError           a configuration file or a `-c key=value`
│   ├── CatalogError          the model catalogue
│   │   └── UnknownModelError a name that is not in the catalogue
│   ├── NoFinalistError       a role that no finalist of a result has
│   └── CandidateError        a candidate that is malformed, or does not fit its task
├── EvaluationStopped         an evaluation ended early
│   ├── BudgetExceeded        a cap would be passed
│   └── CallsFailError        further calls would fail too, or too many examples failed
├── NothingEvaluated          a run ended without one complete trial
├── WeightsError              a model file cannot be fetched, or its checksum differs
│   ├── WeightsSourceError    one of its sources failed
│   └── DownloadCancelledError   the caller cancelled the download
├── JournalError              the journal cannot be written
├── ModelError                one call to a model failed
│   ├── TransientModelError   worth another attempt
│   └── PermanentModelError   the same request would fail again
│       ├── UnsupportedParameterError   the endpoint does not take one of the parameters
│       └── RunStoppingError  a call that was not sent because the run is stopping
├── MalformedResponseError    an HTTP success whose body is not a completion
├── RunLostError              another process has taken over a run of a job
├── WebhookError              an event could not be delivered to a webhook
│   └── TransientWebhookError worth another attempt
├── ApiError                  an HTTP error response in the OpenAI format, sent to a client
├── ScorerError               a scorer or a user's function failed on an example
│   └── UnreadOutputError     a prompt or context function read an output that `reads` does not name
├── CallbackError             a user's callback failed on an event
└── StrategyError             a search strategy failed, or proposed what cannot be tried

An exception that one module raises and handles is defined there, as a subclass. Only `evaluation` turns failures into
data; everywhere else they are raised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from agentopt.core.message_text import plain_number
from agentopt.core.stop_reason import StopKind, StopReason
from agentopt.core.usd_text import format_usd, usd_at_least


class AgentoptError(Exception):
    """Base class of every exception that agentopt raises."""


class UserError(AgentoptError):
    """A mistake in the request: the rule, the value, and what to do about it.

    `where` names the place, such as a file and a key inside it.
    """

    def __init__(self, message: str, *, where: str | Path | None = None, remedy: str | None = None) -> None:
        self.message, self.where, self.remedy = message, where, remedy
        head = f"{where}: {message}" if where else message
        super().__init__(f"{head}\n  remedy: {remedy}" if remedy else head)


class TaskError(UserError):
    """A task folder, or a part of a task that is built in Python, that breaks a rule."""


class UnknownSubtaskError(TaskError, KeyError):
    """A name that is not that of a subtask. Also a `KeyError`, as of a mapping."""

    __str__ = Exception.__str__


class ConfigError(UserError):
    """A configuration that breaks a rule."""


class CatalogError(UserError):
    """A model catalogue that breaks a rule, or a model that is not in it."""


class UnknownModelError(CatalogError, KeyError):
    """A name that is not in the catalogue. Also a `KeyError`, so that the catalogue is a mapping."""

    __str__ = Exception.__str__


class CandidateError(UserError, ValueError):
    """A candidate that is malformed, or that does not fit the task it is used with."""


class NoFinalistError(UserError, LookupError):
    """A role that no finalist of a result has."""


class EvaluationStopped(AgentoptError):  # noqa: N818 - a limit that was reached is not an error of anyone's
    """An evaluation ended before all its examples were run.

    Attributes:
        partial: The `Evaluation` so far, if one was running.
    """

    partial: object = None

    @property
    def stopped(self) -> StopReason:
        """The reason why the run, or a part of it, ended."""
        return StopReason(StopKind.FAILED, detail=str(self))


class CallsFailError(EvaluationStopped):
    """No further call is made: each would fail for the same reason, or too many examples failed.

    Attributes:
        message: The reason, without the remedy.
    """

    def __init__(self, message: str, *, remedy: str) -> None:
        self.message = message
        super().__init__(f"{message}\n  remedy: {remedy}; answers that were paid for are kept")

    @property
    def stopped(self) -> StopReason:
        """The failure as the reason why a run ended, without the remedy: that of a run is to resume it."""
        return StopReason(StopKind.FAILED, detail=self.message)


_NEXT: Mapping[str, Callable[[float], str]] = {
    "usd": lambda wanted: f"could cost up to {usd_at_least(wanted)} USD",
    "tokens": lambda wanted: f"could use up to {wanted:,.10g} tokens",
    "calls": lambda wanted: f"needs up to {wanted:,.10g} {'request' if wanted == 1 else 'requests'}",
}
"""Cap -> what a call may take of it, in words."""


def _enough(cap: float, needed: float, kept: float) -> float:
    """A cap that has room for `needed`. What is kept is a share of a cap, and grows with it at most so."""
    return needed * cap / (cap - kept) if 0 < kept < cap else needed + kept


def larger_cap(cap: float, enough: float = 0.0, finishes: float = 0.0) -> str:
    """The value that messages suggest for a cap that was reached, as a setting.

    Args:
        cap: The cap.
        enough: A cap that the next call fits in.
        finishes: The cap that pays for all that is left, if it is known. Default: twice the cap.
    """
    needed = max(finishes, enough)
    least = math.ceil(needed - 1e-9) if isinstance(cap, int) else float(usd_at_least(needed).replace(",", ""))
    return plain_number(least if finishes else max(2 * cap, least))


class BudgetExceeded(EvaluationStopped):
    """Spending `wanted` more would pass a cap; nothing was spent.

    Attributes:
        name: The cap, such as `usd`, or `agent.usd` for a cap on one purpose.
        message: The cap and the spend, without the remedy.
        enough: A cap that would have sufficed.
    """

    def __init__(self, name: str, *, cap: float, spent: float, wanted: float, kept: float = 0, most: float = 0) -> None:
        self.name, self.cap, self.spent, self.wanted, self.kept = name, cap, spent, wanted, kept
        self.enough = enough = _enough(cap, spent + wanted, kept)
        purpose, _, cap_name = name.rpartition(".")
        amount = "{:,.15g}".format if cap_name in ("calls", "tokens") else format_usd
        setting = f"{purpose}.max_{cap_name}" if purpose else f"budget.{name}"
        used = f"{amount(spent)} spent" + (f" and {amount(kept)} kept back for later phases" if kept else "")
        next_call, left = _NEXT[cap_name](wanted) if cap_name in _NEXT else "", cap - spent - kept
        if next_call and left > 1e-9:
            too_little = f"has {amount(left)} left, too little for the next call, which {next_call}"
            self.message = f"the {name} cap of {amount(cap)} {too_little}: {used}"
        else:
            wait = f", the next wait takes {wanted:.2g} s" if wanted and not next_call else ""
            self.message = f"the {name} cap of {amount(cap)} is reached: {used}{wait}"
        remedy = f"raise {setting}, such as to {larger_cap(cap, enough)}; answers that were paid for are kept"
        if spent == 0 and cap_name != "seconds":
            beside = f" beside {amount(kept)} kept for later phases" if kept else ""
            self.message = f"the {name} cap of {amount(cap)} is too low: the first call {next_call}{beside}"
            least = usd_at_least(enough) if cap_name == "usd" else f"{math.ceil(enough - 1e-9):,}"
            remedy = f"raise {setting} to {least} or more"
        if most:
            kept_answers = "; answers that were paid for are kept" if spent else ""
            remedy = f"raise {setting} to {larger_cap(cap, enough, most)}, which suffices without retries{kept_answers}"
        super().__init__(f"{self.message}\n  remedy: {remedy}")

    def within(self, most: float) -> BudgetExceeded:
        """The error with a cap in its remedy that pays for the whole work.

        Args:
            most: What the work takes at most; 0 if that is not known.
        """
        error = BudgetExceeded(self.name, cap=self.cap, spent=self.spent, wanted=self.wanted, kept=self.kept, most=most)
        error.partial = self.partial
        return error

    @property
    def stopped(self) -> StopReason:
        """The cap as the reason why a run, or a part of it, ended."""
        return StopReason(StopKind.CAP_REACHED, self.name, self.message, self.enough)


class NothingEvaluated(AgentoptError):  # noqa: N818 - named by the state of the run
    """A run ended without one candidate that was evaluated on every example.

    Attributes:
        stopped: Why the search ended.
        failures: Number of failed calls by kind; empty if a cap alone was the cause.
    """

    def __init__(
        self, stopped: StopReason, failures: Mapping[str, int], *, first_error: str | None = None, remedy: str
    ) -> None:
        self.stopped, self.failures = stopped, dict(failures)
        nothing = "no candidate could be evaluated on every example"
        counts = ", ".join(f"{count} x {kind}" for kind, count in failures.items())
        failed = f" (failed calls: {counts})" if counts else ""
        first = f"; the first error: {first_error}" if first_error and first_error not in str(stopped) else ""
        # A failure is the cause itself; a cap or the end of the trials is not.
        message = f"{stopped}; {nothing}" if stopped.kind is StopKind.FAILED else f"{nothing}: {stopped}"
        super().__init__(f"{message}{failed}{first}\n  remedy: {remedy}")


class WeightsError(AgentoptError):
    """A model file that cannot be fetched or whose checksum differs."""


class WeightsSourceError(WeightsError):
    """One source of a model file failed; the next one is tried."""


class DownloadCancelledError(WeightsError):
    """The caller cancelled the download."""


class JournalError(AgentoptError):
    """The journal cannot be written: calls sent meanwhile may have been billed, and their responses are lost."""


FailureScope = Literal["model", "transient", "example"]
"""The extent of a failure.

`model`: every further call to the model would fail too (a wrong key, an unknown model, no credit). `transient`: another
attempt may succeed. `example`: only requests with this content fail (a content filter, the context length).
"""


class ModelError(AgentoptError):
    """One call to a model failed.

    Attributes:
        kind: Failures are counted by it; such as `HTTP 429`, `timeout`, `content filter`, `context length`.
        scope: The extent of the failure.
        provider_message: The provider's message, without secrets; empty if it sent none.
        sent: Whether the request left this machine. If not, nothing is charged.
        billed: Whether the provider may have charged for the call: true when the request was sent and the outcome is
            unknown (a timeout, a dropped connection, an unreadable body).
        tokens: Prompt and completion tokens that the provider reported for the failed call; charged instead of the
            worst case.
    """

    scope: FailureScope = "example"

    def __init__(
        self,
        message: str,
        *,
        billed: bool = False,
        kind: str = "failed",
        scope: FailureScope | None = None,
        provider_message: str = "",
        sent: bool = True,
        tokens: tuple[int, int] | None = None,
    ) -> None:
        self.billed, self.kind, self.provider_message = billed, kind, provider_message
        self.sent, self.tokens = sent, tokens
        self.scope = scope or self.scope
        super().__init__(message)


class TransientModelError(ModelError):
    """Worth another attempt: rate limits, overload, timeouts, broken connections.

    Attributes:
        retry_after: Seconds to wait, if the provider sent a `Retry-After` header.
    """

    scope: FailureScope = "transient"

    def __init__(self, message: str, *, retry_after: float | None = None, **details: Any) -> None:
        self.retry_after = retry_after
        super().__init__(message, **details)


class PermanentModelError(ModelError):
    """The same request would fail again: a wrong key, an unknown model, a refused prompt."""


class UnsupportedParameterError(PermanentModelError):
    """The endpoint refused the request because of one parameter, which is left out of further requests.

    Attributes:
        parameter: `temperature`, `top_p`, `top_p beside temperature`, `seed`, `n`, `stop`, `json_schema`, `strict`,
            `system_role`, `max_tokens`, `max_completion_tokens`, `stream` (it takes only streams), `streaming` (it
            takes none), `stream_options`, `reasoning_effort`, `parallel_tool_calls` or `tools`.
    """

    scope: FailureScope = "model"

    def __init__(self, message: str, *, parameter: str, **details: Any) -> None:
        self.parameter = parameter
        super().__init__(message, **details)


class RunStoppingError(PermanentModelError):
    """A call that was not sent because the run is stopping."""

    scope: FailureScope = "transient"

    def __init__(self) -> None:
        super().__init__("not sent, because the run is stopping", kind="stopping", sent=False)


class MalformedResponseError(AgentoptError):
    """An HTTP success whose body is not a completion.

    Attributes:
        error: The error object, if the body has one.
        tokens: Prompt and completion tokens, if the body has a usage all the same.
    """

    error: Mapping[str, Any] | None = None
    tokens: tuple[int, int] | None = None


class ApiError(AgentoptError):
    """An HTTP error response in the OpenAI format.

    Attributes:
        status: HTTP status code.
        message: `error.message` of the body.
        type: `error.type` of the body.
        param: The request key that is wrong, such as `messages[0].role`.
        code: `error.code` of the body, such as `invalid_value`.
        headers: Headers sent with the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",  # noqa: A002 - the field's name in the format
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status, self.message, self.type, self.param, self.code = status, message, type, param, code
        self.headers = dict(headers or {})
        super().__init__(message)

    @property
    def body(self) -> dict[str, Any]:
        """The response body as a JSON object."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class ScorerError(AgentoptError):
    """A scorer, or a function the user supplied, failed on an example."""


class UnreadOutputError(ScorerError, KeyError):
    """A subtask read an output that its `reads` does not name. Also a `KeyError`, as of a mapping."""

    __str__ = Exception.__str__


class CallbackError(AgentoptError):
    """A callback that the user passed failed on an event, which ended the run."""


class StrategyError(AgentoptError):
    """A search strategy failed, or proposed what cannot be tried."""


class RunLostError(AgentoptError):
    """Another process has taken over a run of a job; this one must not change the champion."""


class WebhookError(AgentoptError):
    """An event could not be delivered. The message omits the URL, which may contain a token."""


class TransientWebhookError(WebhookError):
    """The receiver was overloaded, failing or unreachable; worth another attempt."""
