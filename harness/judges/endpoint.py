"""A chat model behind any OpenAI-compatible endpoint.

    endpoint:model=NAME[,url=http://host:8000/v1][,mode=text|json|logprobs][,concurrency=8]
             [,timeout=60][,retries=5][,max_calls=N][,max_tokens=N][,temperature=0][,new_tokens=512]
             [,price_in=P][,price_out=P]

The address and key may come from ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY``; the key is kept
nowhere. 429, 5xx, time-outs and broken connections are tried again after a growing, jittered wait
(the ``openai`` package does that), answers of 200 that hold no completion too. What stays
unreadable is counted, never a tie. Reaching a limit stops with an error; verdicts given until then
are kept by whoever caches them. Prices are of a million tokens read and written, in any currency.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from prefeval.harness.judges import chat_prompt
from prefeval.records import Comparison, PrefevalError, Verdict

EMPTY_RETRIES = 3  # for answers of 200 without a completion
TOP_LOGPROBS = 20
KEPT = "what was judged until then is kept: run again to go on"


@dataclass(frozen=True)
class Options:
    """As the command line names them."""

    model: str = ""
    url: str = ""
    mode: str = "text"
    concurrency: int = 8
    timeout: float = 60.0
    """seconds of one request"""
    retries: int = 5
    max_calls: int = 0
    """0: no limit"""
    max_tokens: int = 0
    """of requests and replies together; 0: no limit"""
    temperature: float = 0.0
    new_tokens: int = 512
    price_in: float = 0.0
    """of a million tokens of requests"""
    price_out: float = 0.0
    """of a million tokens of replies"""


PACE = ("concurrency", "timeout", "retries", "max_calls", "max_tokens", "price_in", "price_out")
"""Options on which no verdict depends."""


class EndpointJudge:
    """Asks a served model for verdicts, several at once."""

    name = "endpoint"
    expensive = True

    def __init__(self, options: Options) -> None:
        self.options = options
        self.calls = self.tokens = self.unread = 0
        self.cost = 0.0

    @property
    def settings(self) -> Mapping[str, Any]:
        """What a verdict depends on: the model and where it is served, what it is asked, how it
        draws."""
        o = self.options
        return {
            "model": o.model,
            "url": o.url,
            "mode": o.mode,
            "temperature": o.temperature,
            "new_tokens": o.new_tokens,
            "prompt": [chat_prompt.SYSTEM, chat_prompt.ASK[o.mode]],
        }

    def compare(self, items: Sequence[Comparison]) -> list[Verdict]:
        """One verdict for each comparison, in order."""
        found = dict(self.stream(items))
        return [found[i] for i in range(len(items))]

    def stream(self, items: Sequence[Comparison]) -> Iterator[tuple[int, Verdict]]:
        """Each verdict with its place, as it comes.

        Raises ``PrefevalError`` when the endpoint refuses, stays silent, or a limit is reached;
        what came before has been yielded.
        """
        client = _client(self.options)
        loop = asyncio.new_event_loop()
        gate = asyncio.Semaphore(self.options.concurrency)

        failure: BaseException | None = None

        async def one(place: int, item: Comparison) -> tuple[int, Verdict] | None:
            async with gate:  # after a failure nothing is begun, and what is paid for is awaited
                return None if failure else (place, await self._ask(client, item))

        tasks = {loop.create_task(one(i, item)) for i, item in enumerate(items)}
        try:
            while tasks:
                done, tasks = loop.run_until_complete(
                    asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                )
                for task in done:
                    if error := task.exception():
                        failure = failure or error
                    elif found := task.result():
                        yield found
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks))
            loop.run_until_complete(client.close())
            loop.close()
        if failure is not None:
            raise failure

    async def _ask(self, client: Any, item: Comparison) -> Verdict:
        o = self.options
        request: dict[str, Any] = {
            "model": o.model,
            "messages": chat_prompt.messages(item, o.mode),
            "temperature": o.temperature,
            "max_tokens": 1 if o.mode == "logprobs" else o.new_tokens,
        }
        if o.mode == "logprobs":
            request |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        if o.mode == "json":
            schema = {"name": "verdict", "strict": True, "schema": chat_prompt.SCHEMA}
            request["response_format"] = {"type": "json_schema", "json_schema": schema}
        for attempt in range(EMPTY_RETRIES + 1):
            self._require_room()
            self.calls += 1
            reply = await self._request(client, request)
            if isinstance(reply, Verdict):
                self.unread += 1
                return reply
            if (choices := getattr(reply, "choices", None)) and choices[0].message is not None:
                self._count(reply.usage)
                verdict = self._verdict(choices[0])
                self.unread += verdict.preference is None
                return verdict
            await asyncio.sleep(min(8.0, 0.5 * 2**attempt) * random.uniform(0.5, 1))
        raise PrefevalError(
            f"{self._where} answers without a completion ({str(reply)[:80]!r}); "
            f"check that the address ends in /v1 and serves chats; {KEPT}"
        )

    def _count(self, usage: Any) -> None:
        read, written, total = (
            getattr(usage, f"{name}_tokens", 0) or 0 for name in ("prompt", "completion", "total")
        )
        self.tokens += total
        self.cost += (read * self.options.price_in + written * self.options.price_out) / 1e6

    def _verdict(self, choice: Any) -> Verdict:
        text = choice.message.content or ""
        if self.options.mode == "logprobs" and choice.logprobs and choice.logprobs.content:
            top = [(t.token, t.logprob) for t in choice.logprobs.content[0].top_logprobs]
            return Verdict(chat_prompt.from_logprobs(top), text[:200])
        refusal = getattr(choice.message, "refusal", None)
        if refusal or choice.finish_reason == "content_filter":
            return Verdict(None, f"refused: {refusal or 'filtered'}"[:200])
        note = "cut: " if choice.finish_reason == "length" else ""
        return Verdict(chat_prompt.read(text, self.options.mode), f"{note}{text[-200:]}")

    async def _request(self, client: Any, request: Mapping[str, Any]) -> Any:
        """A reply; a verdict without a preference where this one prompt is refused."""
        import openai

        o = self.options
        try:
            patience = (o.timeout + 10) * (o.retries + 1)  # a reply may also trickle in for ever
            return await asyncio.wait_for(client.chat.completions.create(**request), patience)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            said = f"{error} {error.code} {error.body}"
            if "content_filter" in said or "content_policy" in said:
                return Verdict(None, f"refused: {_line(error)}"[:200])
            if "context_length" in said or "context length" in said:
                return Verdict(None, "longer than the judge's context")
            raise PrefevalError(
                f"{self._where} refuses the request ({_line(error)}); try another mode= or "
                f"new_tokens=; {KEPT}"
            ) from error
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise PrefevalError(
                f"{self._where} refuses the key ({_line(error)}); set OPENAI_API_KEY"
            ) from error
        except openai.NotFoundError as error:
            raise PrefevalError(
                f"{self._where} has no such model or address ({_line(error)}); check both"
            ) from error
        except (TimeoutError, openai.APITimeoutError) as error:
            raise PrefevalError(
                f"{self._where} did not answer within {o.timeout:g} s, "
                f"{o.retries + 1} tries; {KEPT}"
            ) from error
        except openai.APIConnectionError as error:
            raise PrefevalError(
                f"{self._where} cannot be reached ({_line(error.__cause__ or error)}); {KEPT}"
            ) from error
        except openai.APIStatusError as error:
            raise PrefevalError(
                f"{self._where} fails after {o.retries + 1} tries ({_line(error)}); {KEPT}"
            ) from error
        except ValueError as error:  # 200 with a body that is no JSON, read as such
            return _line(error)

    def _require_room(self) -> None:
        o = self.options
        for limit, used, what in (
            (o.max_calls, self.calls, "calls"),
            (o.max_tokens, self.tokens, "tokens"),
        ):
            if limit and used >= limit:
                raise PrefevalError(f"the limit of {limit} {what} is reached (max_{what}); {KEPT}")

    @property
    def _where(self) -> str:
        return f"the judge {self.options.model} at {self.options.url or 'api.openai.com'}"


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160] or type(error).__name__


def _client(options: Options) -> Any:
    import os

    try:
        import openai
    except ImportError:
        raise PrefevalError(
            "the judge 'endpoint' needs the openai package: pip install 'prefeval[endpoint]'"
        ) from None
    return openai.AsyncOpenAI(
        base_url=options.url or None,
        api_key=os.environ.get("OPENAI_API_KEY") or "none",
        timeout=options.timeout,
        max_retries=options.retries,
    )


def from_text(argument: str, *, device: str = "cpu", dtype: str = "float32") -> EndpointJudge:
    """``model=...,url=...``; where models run does not matter here."""
    import os

    kinds = {f.name: f.type for f in fields(Options)}
    given: dict[str, Any] = {"url": os.environ.get("OPENAI_BASE_URL", "")}
    for part in filter(None, argument.split(",")):
        name, is_set, value = part.partition("=")
        if name not in kinds or not is_set:
            raise PrefevalError(
                f"the judge 'endpoint' does not know {part!r}; use model=, {', '.join(kinds)}"
            )
        kind = {"int": int, "float": float}.get(str(kinds[name]), str)
        try:
            given[name] = kind(value)
        except ValueError:
            raise PrefevalError(f"endpoint: {name} must be a number, got {value!r}") from None
        if kind is not str and not 0 <= given[name] < 1e12:
            raise PrefevalError(f"endpoint: {name} must be 0 or more, got {value}")
    if not given.get("model"):
        raise PrefevalError("the judge 'endpoint' needs a model: endpoint:model=NAME,url=...")
    options = Options(**given)
    chat_prompt.require_mode(options.mode)
    if options.url and not re.fullmatch(
        r"https?://(\[[\da-f:]+\]|[^/:\s]+)(:\d+)?(/\S*)?", options.url
    ):
        raise PrefevalError(f"endpoint: {options.url!r} is no address; url=http://host:8000/v1")
    if options.concurrency < 1 or options.timeout <= 0:
        raise PrefevalError("endpoint: concurrency must be at least 1 and timeout above 0")
    return EndpointJudge(options)
