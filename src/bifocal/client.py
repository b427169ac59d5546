"""Asks a service over HTTP what `System.predict` answers at home; waits and asks again where it is busy."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx

from .errors import BifocalError, ConfigError, DataError
from .files.folders import Picture
from .files.post_table import MAX_NAME, NAMES
from .modalities import PARTS, arguments, given_parts, inputs
from .system.decision import LabelDecision
from .system.preprocessing import read_file

BUSY = (429, 503)
"""Statuses that pass: the service has no place, or its models or log are away for a moment."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 30.0
MOST_POSTS, MOST_BYTES = 64, 8 * 2**20
"""Of a request with several posts. A service takes 64 and 12 MiB, unless it is told otherwise."""
TOO_LARGE = 413
ARGUMENTS = (*arguments(), *NAMES)
"""What a row of `Client.predict_batch` may hold, beside ``id``."""
Result = TypeVar("Result")


class ServerError(BifocalError):
    """A service did not do what it was asked.

    Attributes
    ----------
    status : int or None
        HTTP status; None where there was no answer.
    kind : str
        As the service names it, or ``unreachable``.
    """

    def __init__(self, message: str, status: int | None, kind: str):
        super().__init__(message)
        self.status = status
        self.kind = kind


@dataclass(frozen=True)
class Answered:
    """A decision of a service; ``body`` is all that it told, the fields are what most ask for.

    Attributes
    ----------
    id : str
        Of the decision in the service's log; for `Client.feedback`.
    action : str or None
        ``allow``, ``review`` or ``block``.
    probability : float or None
        Calibrated; None where a list of known pictures decided.
    match : dict or None
        The entry of that list.
    labels : dict
        Of a run of several labels the answer by each, None where it is not asked; see `Decision.labels`.
    """

    id: str
    action: str | None
    label: int | str | None
    probability: float | None
    threshold: float | None
    why: str
    match: Mapping[str, Any] | None
    truncated: bool
    versions: Mapping[str, str]
    body: Mapping[str, Any]
    labels: Mapping[str, LabelDecision | None] = field(default_factory=dict)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        named = {name: body[name] for name in cls.__dataclass_fields__ if name not in ("body", "labels")}
        labels = {name: one and LabelDecision.from_dict(one) for name, one in body.get("labels", {}).items()}
        return cls(**named, body=body, labels=labels)

    def to_dict(self) -> dict[str, Any]:
        """All that the service told."""
        return dict(self.body)


_Part = list[tuple[int, bytes]]
"""The places of some rows, and each as JSON."""
_Talk = Generator[httpx.Request | float, Any, Result]
"""A conversation with a service, without the means: `Client` and `AsyncClient` bring those.

It yields what to send, and is sent the service's answer; or the seconds to wait.
"""


class _Asking:
    """What both clients say."""

    _http: httpx.Client | httpx.AsyncClient

    def __init__(self, url: str, key: str | None, patience_s: float):
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            parsed = httpx.URL()
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ConfigError(
                f"the address of a service is http:// or https:// with a host, as http://127.0.0.1:8080; found {url!r}"
            )
        self.url = url.rstrip("/")
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.patience_s = patience_s

    def _ask(self, method: str, path: str, **content: Any) -> _Talk[Any]:
        """The body of the answer, asked for until it comes or patience ends."""
        request = self._http.build_request(method, path, **content)
        waited, pause = 0.0, FIRST_WAIT_S
        while True:
            response: httpx.Response = yield request
            if response.status_code not in BUSY or waited >= self.patience_s:
                return self._read(response)
            told = response.headers.get("Retry-After", "")
            least = float(told) if told.isdigit() else 0.0
            # Not all at once again: every client waits a little differently.
            seconds = min(max(least, pause * random.uniform(0.5, 1.5)), self.patience_s - waited, LONGEST_WAIT_S)
            yield seconds
            waited, pause = waited + seconds, pause * 2

    def _read(self, response: httpx.Response) -> Any:
        try:
            body = response.json()
            if response.is_success:
                return body
            error = body["error"]
            kind, message = error["kind"], error["message"]
        except (ValueError, KeyError, TypeError):
            raise ServerError(
                f"{self.url} answered {response.status_code} and not as a Bifocal service does: is it one?",
                response.status_code,
                "not_bifocal",
            ) from None
        if kind == "unusable":
            raise DataError(message)
        raise ServerError(f"{self.url}: {message}", response.status_code, kind)

    def _predict(self, row: Mapping[str, Any]) -> _Talk[Answered]:
        return Answered.of((yield from self._ask("POST", "/v1/predict", files=_form(row))))

    def _predict_batch(self, rows: Sequence[Mapping[str, Any]]) -> _Talk[list[Answered | BifocalError]]:
        results: dict[int, Answered | BifocalError] = {}
        for part in _parts(rows, results):
            yield from self._predict_part(part, results)
        return [results[i] for i in range(len(rows))]

    def _predict_part(self, part: _Part, results: dict[int, Answered | BifocalError]) -> _Talk[None]:
        """Ask for some posts at once, by halves where the service takes fewer."""
        waited = 0.0
        while part:
            body = b'{"items": [' + b", ".join(item for _, item in part) + b"]}"
            headers = {"Content-Type": "application/json"}
            try:
                told = yield from self._ask("POST", "/v1/predict/batch", content=body, headers=headers)
            except ServerError as error:
                if error.status != TOO_LARGE:
                    raise
                if len(part) == 1:  # no fault of the service, nor of the other rows
                    results[part[0][0]] = DataError(f"{error}: the post is too large, make its picture or text smaller")
                    return
                half = len(part) // 2
                yield from self._predict_part(part[:half], results)
                yield from self._predict_part(part[half:], results)
                return
            again = []
            for (i, item), answer in zip(part, told["results"], strict=True):
                if "error" not in answer:
                    results[i] = Answered.of(answer)
                elif answer["error"]["kind"] in ("overloaded", "unavailable") and waited < self.patience_s:
                    again.append((i, item))
                else:
                    results[i] = _error(answer["error"])
            if part := again:
                yield 1.0
                waited += 1.0

    def _feedback(
        self, decision_id: str, label: int | str, reason: str, labels: Mapping[str, int | str] | None
    ) -> _Talk[dict[str, Any]]:
        body: dict[str, Any] = {"decision_id": decision_id, "label": label, "reason": reason}
        if labels:
            body["labels"] = dict(labels)
        return (yield from self._ask("POST", "/v1/feedback", json=body))

    def _appeal(self, decision_id: str, reason: str) -> _Talk[dict[str, Any]]:
        body = {"decision_id": decision_id, "reason": reason}
        return (yield from self._ask("POST", "/v1/appeals", json=body))

    def _forget(self, subject: str) -> _Talk[dict[str, Any]]:
        # Dots too, which `quote` lets stand: httpx would take a subject "." or ".." for a step on the path.
        name = quote(_sendable(subject), safe="").replace(".", "%2E")
        return (yield from self._ask("DELETE", f"/v1/subjects/{name}"))

    def _unreachable(self, error: httpx.TransportError) -> ServerError:
        return ServerError(f"no service answers at {self.url} ({error}): is it running?", None, "unreachable")


class Client(_Asking):
    """Asks a service, one thing after another.

    Parameters
    ----------
    url : str
        ``http://127.0.0.1:8080``; `ConfigError` where it is no such address.
    key : str, optional
        API key.
    timeout_s : float
        For one answer.
    patience_s : float
        How long to go on asking a service that is busy (429, 503), in all.

    Examples
    --------
    >>> with bifocal.Client("http://127.0.0.1:8080") as client:                # doctest: +SKIP
    ...     client.predict(text="a caption", image_path="meme.png").action
    """

    _http: httpx.Client

    def __init__(self, url: str, *, key: str | None = None, timeout_s: float = 60.0, patience_s: float = 60.0):
        super().__init__(url, key, patience_s)
        self._http = httpx.Client(base_url=self.url, headers=self.headers, timeout=timeout_s)

    def predict(
        self,
        text: str | None = None,
        image_path: str | Path | None = None,
        tabular: Mapping[str, Any] | None = None,
        *,
        parts: Mapping[str, Any] | None = None,
        subject: str | None = None,
        external_id: str | None = None,
    ) -> Answered:
        """Decide on one post.

        Parameters
        ----------
        text, image_path, tabular
            As `System.predict` takes them.
        parts : mapping, optional
            Any other part by its name, as `System.predict` takes it; a file as a `Path`.
        subject, external_id : str, optional
            The author and the post, as the platform calls them.

        Raises
        ------
        DataError
            Where the post cannot be used.
        ServerError
            Where the service is not to be reached, stays busy, or refuses.
        """
        return self._talk(
            self._predict(dict(zip(ARGUMENTS, (text, image_path, tabular, parts, subject, external_id), strict=True)))
        )

    def predict_batch(self, rows: Sequence[Mapping[str, Any]]) -> list[Answered | BifocalError]:
        """Decide on several posts; one that cannot be used yields its error, in the order of the rows.

        They go in parts of what a service takes at once. Raises `ServerError` as `predict`.
        """
        return self._talk(self._predict_batch(rows))

    def policy(self) -> dict[str, Any]:
        """The policy that decides there. Raises `ServerError`."""
        return self._talk(self._ask("GET", "/v1/policy"))

    def feedback(
        self, decision_id: str, label: int | str, reason: str = "", labels: Mapping[str, int | str] | None = None
    ) -> dict[str, Any]:
        """Say what a decided post turned out to be: by the first label, and by others as ``{label: class}``.

        Raises `DataError`, `ServerError`.
        """
        return self._talk(self._feedback(decision_id, label, reason, labels))

    def appeal(self, decision_id: str, reason: str = "") -> dict[str, Any]:
        """Ask that a person look at a decision. Raises `DataError`, `ServerError`."""
        return self._talk(self._appeal(decision_id, reason))

    def forget(self, subject: str) -> dict[str, Any]:
        """Delete all that is held of an author; gives the receipt. Raises `ServerError`."""
        return self._talk(self._forget(subject))

    def _talk(self, talk: _Talk[Result]) -> Result:
        answer: Any = None
        while True:
            try:
                step = talk.send(answer)
            except StopIteration as end:
                return end.value
            answer = None
            if isinstance(step, float):
                time.sleep(step)
            else:
                try:
                    answer = self._http.send(step)
                except httpx.TransportError as error:
                    raise self._unreachable(error) from error

    def close(self) -> None:
        """Let go of its connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Asking):
    """`Client` for coroutines: the same methods, to be awaited."""

    _http: httpx.AsyncClient

    def __init__(self, url: str, *, key: str | None = None, timeout_s: float = 60.0, patience_s: float = 60.0):
        super().__init__(url, key, patience_s)
        self._http = httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=timeout_s)

    async def predict(
        self,
        text: str | None = None,
        image_path: str | Path | None = None,
        tabular: Mapping[str, Any] | None = None,
        *,
        parts: Mapping[str, Any] | None = None,
        subject: str | None = None,
        external_id: str | None = None,
    ) -> Answered:
        """As `Client.predict`."""
        return await self._talk(
            self._predict(dict(zip(ARGUMENTS, (text, image_path, tabular, parts, subject, external_id), strict=True)))
        )

    async def predict_batch(self, rows: Sequence[Mapping[str, Any]]) -> list[Answered | BifocalError]:
        """As `Client.predict_batch`."""
        return await self._talk(self._predict_batch(rows))

    async def policy(self) -> dict[str, Any]:
        """As `Client.policy`."""
        return await self._talk(self._ask("GET", "/v1/policy"))

    async def feedback(
        self, decision_id: str, label: int | str, reason: str = "", labels: Mapping[str, int | str] | None = None
    ) -> dict[str, Any]:
        """As `Client.feedback`."""
        return await self._talk(self._feedback(decision_id, label, reason, labels))

    async def appeal(self, decision_id: str, reason: str = "") -> dict[str, Any]:
        """As `Client.appeal`."""
        return await self._talk(self._appeal(decision_id, reason))

    async def forget(self, subject: str) -> dict[str, Any]:
        """As `Client.forget`."""
        return await self._talk(self._forget(subject))

    async def _talk(self, talk: _Talk[Result]) -> Result:
        answer: Any = None
        while True:
            try:
                step = talk.send(answer)
            except StopIteration as end:
                return end.value
            answer = None
            if isinstance(step, float):
                await asyncio.sleep(step)
            else:
                try:
                    answer = await self._http.send(step)
                except httpx.TransportError as error:
                    raise self._unreachable(error) from error

    async def close(self) -> None:
        """Let go of its connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Remote:
    """A service as `system.score.score_file` takes it; columns go by their usual names, as it knows no others."""

    source_options: Mapping[str, Any] = {}
    loader = None

    def __init__(self, client: Client):
        self.client = client
        policy = client.policy()
        self.reads = frozenset([*policy["reads"], *NAMES])
        self.columns = frozenset(policy["columns"])
        self.modalities: list[str] = policy["modalities"]
        self.forms: Mapping[str, str] = policy.get("forms", {})
        self.reads_words: bool = policy["reads_words"]
        self.binary = len(policy["classes"]) == 2
        self.identity = [policy["version"], policy["engine"]]

    def predict_batch(self, rows: Sequence[Mapping[str, Any]]) -> list[Answered | BifocalError]:
        """As `Client.predict_batch`; a row that has an ``id`` and no ``external_id`` goes by the former.

        Raises `ServerError` where the service fails a row that is in order.
        """
        answers = self.client.predict_batch([_by_its_id(row) for row in rows])
        for answer in answers:
            if isinstance(answer, ServerError):  # not the row's fault: written down it would stay undecided
                raise answer
        return answers


def _by_its_id(row: Mapping[str, Any]) -> Mapping[str, Any]:
    name = row.get("id")
    if name is None or "external_id" in row or len(_sendable(name)) > MAX_NAME:
        return row
    return {**row, "external_id": name}


def _parts(rows: Sequence[Mapping[str, Any]], results: dict[int, Answered | BifocalError]) -> Iterator[_Part]:
    """The rows in parts that a service takes at once; the error of one that cannot be sent goes to the results."""
    part: _Part = []
    size = 0
    for i, row in enumerate(rows):
        try:
            item = json.dumps(_item(row)).encode()
        except BifocalError as error:
            results[i] = error
            continue
        if part and (len(part) == MOST_POSTS or size + len(item) > MOST_BYTES):
            yield part
            part, size = [], 0
        part.append((i, item))
        size += len(item)
    if part:
        yield part


def _form(row: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The fields of a post as a form, which sends files as they are."""
    given, names = _given(row)
    sent: list[tuple[str, Any]] = []
    others: dict[str, Any] = {}
    for name, part in given.items():
        form = inputs()[name].form if name in inputs() else None
        if form == "file":
            sent.append((name, ("file", read_file(part, inputs()[name]), "application/octet-stream")))
        elif form == "record":
            sent.append((name, (None, json.dumps(dict(part)))))
        elif form == "words":
            sent.append((name, (None, _sendable(part))))
        else:
            others[name] = _as_json(part)
    sent += [(PARTS, (None, json.dumps(others)))] if others else []
    if not sent:
        raise DataError(f"a post needs {' or '.join(arguments())}; none was given")
    return [*sent, *((name, (None, value)) for name, value in names.items())]


def _item(row: Mapping[str, Any]) -> dict[str, Any]:
    """A post as JSON."""
    given, names = _given(row)
    item: dict[str, Any] = {}
    for name, part in given.items():
        if name not in inputs():
            item.setdefault(PARTS, {})[name] = _as_json(part)
        elif inputs()[name].is_file:
            item[name] = base64.b64encode(read_file(part, inputs()[name])).decode()
        else:
            item[name] = _as_json(part)
    return item | names


def _given(row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The parts of a row, and what the platform calls its author and the post."""
    if unknown := set(row) - {*ARGUMENTS, "id"}:
        raise DataError(f"a row takes {', '.join(ARGUMENTS)}, found also {', '.join(sorted(unknown))}")
    return given_parts(row), {name: _sendable(row[name]) for name in NAMES if row.get(name) is not None}


def _as_json(part: Any) -> Any:
    """A part as JSON has it: of a file that a `Path` names its bytes in base64."""
    if isinstance(part, Path | Picture):
        return base64.b64encode(part.read_bytes() if isinstance(part, Path) else part.read()).decode()
    if isinstance(part, Mapping):
        return dict(part)
    return _sendable(part) if isinstance(part, str) else part


def _sendable(words: str) -> str:
    """A text that UTF-8 can hold: a lone surrogate becomes U+FFFD, as the service would have it."""
    return str(words).encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _error(told: Mapping[str, str]) -> BifocalError:
    if told["kind"] == "unusable":
        return DataError(told["message"])
    return ServerError(told["message"], None, told["kind"])
