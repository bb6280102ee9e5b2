"""Answers from any OpenAI-compatible endpoint: a hosted model, ``vllm serve``, the scripted server.

One process, one event loop: a bounded number of workers take prompts from the table as they become
free, and finished answers go to disk in batches. Nothing here needs Ray: what is waited for is the
network. See `journal` for what survives a crash, `pacing` for limits, `replies` for failures.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from msm_ray.errors import UserError
from msm_ray.llm.endpoint import PATHS, Endpoint, HttpRuntime
from msm_ray.llm.journal import Flusher, Journal, in_order
from msm_ray.llm.pacing import Clock, Pace, SystemClock, backoff
from msm_ray.llm.price import CHARACTERS_PER_TOKEN, Estimate, Price
from msm_ray.llm.protocol import ANSWER_SCHEMA, Sampling
from msm_ray.llm.replies import (
    Consequence,
    Failure,
    Malformed,
    Reply,
    failure_of_status,
    read_reply,
    scrubber,
)

__all__ = ["Endpoint", "Estimate", "HttpAnswers", "HttpRuntime", "Price"]

log = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0  # what a crash can lose, besides the calls in flight
_CONNECT_S = 10.0
# A key of so many characters is in no text by chance; "none", which local servers take, may be.
_LONG_KEY = 12
_SLICE_ROWS = 256
# Of an endpoint that has answered nothing yet: so many rows in a row that end in the same error
# are no matter of single prompts.
USELESS_ROWS = 50

Row = dict[str, Any]


class HttpAnswers:
    """`Answers` by an endpoint. Called in a thread without a running event loop.

    Args:
        endpoint: what is asked.
        runtime: how hard.
        clock: of rate limits and waits; tests replace it.

    ``facts`` has what the last call did: ``calls`` (requests made), ``failed_tries`` (by reason),
    ``unmetered`` (answers whose tokens the endpoint did not count: they have 0).
    """

    call_rows = 4096  # a call costs nothing; a table of so many answers fits anywhere

    def __init__(
        self, endpoint: Endpoint, runtime: HttpRuntime, clock: Clock | None = None
    ) -> None:
        self._endpoint = endpoint
        self._runtime = runtime
        self._clock = clock or SystemClock()
        self._is_known_good = False  # it answered something, in this run or an earlier one
        self.facts: dict[str, Any] = {}

    def answer(
        self,
        prompts: pa.Table,
        sampling: Sampling,
        work: Path,
        progress: Callable[[int], None],
    ) -> pa.Table:
        """See `Answers.answer`. Rows with an error are asked again in the next call.

        Raises:
            UserError: no key, wrong key or model, no credit left, an endpoint that is not there, or
                one that has answered nothing and ended `USELESS_ROWS` rows in a row with the same
                error. What was answered until then is on disk.
        """
        ids = prompts["id"]
        assert pc.count_distinct(ids).as_py() == len(ids), "prompt ids are not unique"
        instructed = pc.any(pc.not_equal(prompts["system"], "")).as_py()
        if instructed and self._endpoint.api == "completions":
            raise UserError("endpoint api 'completions' has no system message; use 'chat'")
        journal = Journal(work / self._endpoint.digest(sampling))
        remaining = ~pc.is_in(ids, value_set=journal.ids()).to_numpy()
        self._is_known_good |= not remaining.all()
        call = _Call(
            self._endpoint, self._runtime, self._clock, sampling, remaining, self._is_known_good
        )
        try:
            if call.remaining:
                asyncio.run(call.run(_rows(prompts, remaining), journal, progress))
        finally:
            self.facts = call.facts()
            self._is_known_good |= call.answered > 0
        progress(len(ids))
        answers = journal.table()
        if answers.num_rows + len(call.errors) != len(ids):  # a prompt was taken out since
            answers = answers.filter(pc.is_in(answers["id"], value_set=ids))
        errors = pa.Table.from_pylist(call.errors, schema=ANSWER_SCHEMA)
        return in_order(ids, pa.concat_tables([answers, errors]))


class _Call:
    """One call of `HttpAnswers.answer`, from the first prompt to the last."""

    def __init__(
        self,
        endpoint: Endpoint,
        runtime: HttpRuntime,
        clock: Clock,
        sampling: Sampling,
        remaining: NDArray[np.bool_],
        is_known_good: bool,
    ) -> None:
        self._endpoint, self._runtime, self._sampling = endpoint, runtime, sampling
        self._clock = clock
        self._pace = Pace(runtime.requests_per_minute, runtime.tokens_per_minute, clock)
        self._chance = random.Random()
        self.remaining = int(remaining.sum())
        self._before = len(remaining) - self.remaining  # answered in earlier calls
        self._workers = self._working = min(runtime.concurrency, self.remaining)
        # Nothing is asked where all is answered, so no key is needed then.
        self._key = endpoint.key() if self.remaining else ""
        self._headers = {"Authorization": f"Bearer {self._key}" if self._key else openai.Omit()}
        self._scrub = scrubber(self._key)
        self._calls, self._answered, self._unmetered = 0, 0, 0
        self._failed_tries: Counter[str] = Counter()
        self._down_tries, self._down_rows = 0, 0  # since the endpoint was last there
        self._is_known_good = is_known_good
        self._alike, self._alike_reason = 0, ""  # rows in a row that ended with one reason
        self.errors: list[Row] = []

    @property
    def answered(self) -> int:
        """Rows answered so far."""
        return self._answered

    def facts(self) -> dict[str, Any]:
        """See `HttpAnswers`."""
        return {
            "calls": self._calls,
            "failed_tries": dict(self._failed_tries.most_common()),
            "unmetered": self._unmetered,
        }

    async def run(
        self, prompts: Iterator[Row], journal: Journal, progress: Callable[[int], None]
    ) -> None:
        """Ask all ``prompts``; whatever ends this, the answers until then are on disk."""

        def written() -> None:
            progress(self._before + self._answered + len(self.errors))

        flusher = Flusher(journal, self._runtime.flush_rows, FLUSH_SECONDS, written)
        async with self._client() as client:
            tasks = [asyncio.create_task(flusher.run())]
            for _ in range(self._workers):
                tasks.append(asyncio.create_task(self._work(client, prompts, flusher)))
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                for worker in tasks[1:]:
                    worker.cancel()
                flusher.close()
                await asyncio.wait(tasks)
                flusher.finish()
        errors = [task.exception() for task in tasks if not task.cancelled()]
        for error in errors:
            if error:
                raise error
        if self._unmetered:
            log.warning(
                "%s gave no usage with %d of %d answers; their tokens count as 0",
                self._endpoint.base_url,
                self._unmetered,
                self._answered,
            )

    def _client(self) -> openai.AsyncOpenAI:
        # For good, as another call may be running: below this they log a line for each request, and
        # headers, which an endpoint may have filled with the key.
        for name in ("httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)
        timeout_s = self._runtime.timeout_s
        return openai.AsyncOpenAI(
            base_url=self._endpoint.base_url,
            # Never None, with or without a key: the client would look for one in variables that
            # are meant for other endpoints. The headers of each request say what is sent.
            api_key=self._key or "none",
            admin_api_key="",
            max_retries=0,
            timeout=httpx2.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)),
        )

    async def _work(
        self, client: openai.AsyncOpenAI, prompts: Iterator[Row], flusher: Flusher
    ) -> None:
        """Take one prompt after the other; all workers take from the same iterator."""
        for prompt in prompts:
            outcome = await self._ask(client, prompt)
            row: Row = {"id": prompt["id"], "text": "", "prompt_tokens": 0, "tokens": 0}
            if isinstance(outcome, Failure):
                self.errors.append({**row, "ended": False, "error": outcome.message})
                continue
            self._answered += 1
            self._unmetered += not outcome.metered
            text = outcome.text
            if len(self._key) >= _LONG_KEY:
                text = text.replace(self._key, "[key]")
            row |= {"text": text, "prompt_tokens": outcome.prompt_tokens}
            flusher.add({**row, "tokens": outcome.tokens, "ended": outcome.ended, "error": ""})
        self._working -= 1
        if not self._working:
            flusher.close()

    async def _ask(self, client: openai.AsyncOpenAI, prompt: Row) -> Reply | Failure:
        """Try until there is an answer, or as often as is allowed."""
        body = self._endpoint.body(prompt, self._sampling)
        characters = len(prompt["system"]) + len(prompt["prompt"])
        need = characters / CHARACTERS_PER_TOKEN + self._sampling.max_tokens
        runtime = self._runtime
        tries, failures, answered = 0, 0, self._answered
        while True:
            await self._pace.enter(need)
            tries += 1
            self._calls += 1
            outcome = await self._try(client, body)
            if isinstance(outcome, Reply):
                used = outcome.prompt_tokens + outcome.tokens if outcome.metered else need
                self._pace.settle(need, used)
                self._down_tries = self._down_rows = 0
                return outcome
            # A model may have worked for a try that was given up; one refused cost nothing.
            self._pace.settle(need, need if outcome.reason == "timeout" else 0)
            self._failed_tries[outcome.reason] += 1
            failures += 1
            if outcome.reason == "429" and self._answered > answered:
                # The endpoint answers as fast as it wants to: this prompt has to wait its turn.
                tries = 0
            answered = self._answered
            self._stop_if_useless(outcome, last=tries == runtime.max_attempts)
            if outcome.consequence is not Consequence.AGAIN:
                return outcome
            wait = outcome.wait_s or 0.0
            if outcome.reason in ("429", "503"):
                self._pace.close(wait)  # meant for everyone who asks with this key
            if tries == runtime.max_attempts:
                return Failure(outcome.reason, f"{outcome.message} (after {failures} tries)")
            wait += backoff(failures - 1, runtime.backoff_s, runtime.backoff_max_s, self._chance)
            await self._pace.sleep(wait)

    async def _try(self, client: openai.AsyncOpenAI, body: Row) -> Reply | Failure:
        """Make one request."""
        runtime = self._runtime
        try:
            # The client's own limit starts again with every byte that comes.
            async with asyncio.timeout(runtime.timeout_s):
                response = await client.post(
                    PATHS[self._endpoint.api],
                    cast_to=httpx2.Response,
                    body=body,
                    options={"headers": self._headers},
                )
            return read_reply(response.content)
        except (TimeoutError, openai.APITimeoutError):
            return Failure("timeout", f"no answer within {runtime.timeout_s} s", down=True)
        except openai.APIStatusError as error:
            return failure_of_status(
                error.status_code,
                error.response.headers,
                error.response.content,
                now=self._clock.time(),
                scrub=self._scrub,
            )
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            message = self._scrub(f"{type(cause).__name__}: {cause}")
            return Failure("connection", message, down=True)
        except Malformed as error:
            return Failure("malformed", self._scrub(str(error)))

    def _stop_if_useless(self, failure: Failure, *, last: bool) -> None:
        """Raise UserError where nothing would be gained by asking all the other prompts.

        ``last``: of the tries for its prompt.
        """
        endpoint = self._endpoint
        anything = self._before + self._answered > 0
        if failure.consequence is Consequence.EVERYTHING:
            # Some endpoints also answer 403 to a prompt that they do not like.
            if failure.reason == "403" and anything:
                return
            hint = {
                "401": f"the key in {endpoint.key_env or 'key_env'} is not accepted",
                "402": "the account has no credit",
                "403": f"the key in {endpoint.key_env or 'key_env'} may not use it",
                "404": "the model or the path of base_url does not exist",
            }.get(failure.reason, "it asks to wait; run again later")
            raise UserError(
                f"{endpoint.base_url} does not answer for model {endpoint.model!r}: {hint} "
                f"({failure.message})"
            )
        if last or failure.consequence is Consequence.ROW:
            self._stop_if_all_alike(failure)
        if not failure.down:
            self._down_tries = self._down_rows = 0
            return
        self._down_tries += 1
        self._down_rows += last
        tries = 3 * self._workers + self._runtime.max_attempts
        if (self._answered == 0 and self._down_tries >= tries) or (
            self._down_rows >= max(16, self._workers)
        ):
            raise UserError(
                f"{endpoint.base_url} cannot be used: {self._down_tries} tries in a row failed, "
                f"the last with {failure.message!r}; start the server or correct base_url"
            )

    def _stop_if_all_alike(self, failure: Failure) -> None:
        """Count a row that ended in an error; UserError where nothing else ever came."""
        is_same = failure.reason == self._alike_reason
        self._alike = self._alike + 1 if is_same else 1
        self._alike_reason = failure.reason
        if self._answered or self._is_known_good or self._alike < USELESS_ROWS:
            return
        raise UserError(
            f"{self._endpoint.base_url} has answered nothing for model {self._endpoint.model!r}: "
            f"{self._alike} prompts in a row ended with {failure.message!r}; correct what is sent "
            "(limit_field, leave_out, extra), or run again when it is well"
        )


def _rows(prompts: pa.Table, wanted: NDArray[np.bool_]) -> Iterator[Row]:
    """The wanted rows of a table one by one, without making lists of all of them."""
    for start in range(0, prompts.num_rows, _SLICE_ROWS):
        mask = wanted[start : start + _SLICE_ROWS]
        if mask.any():
            part = prompts.slice(start, _SLICE_ROWS).filter(pa.array(mask))
            yield from part.select(["id", "system", "prompt"]).to_pylist()
