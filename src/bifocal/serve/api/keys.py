"""API keys: a file of their hashes, what each client may do and how often."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from ...config import Strict, explain
from ...decide.policy import now
from ...errors import RunError
from ...workspace import folder_lock, write_json
from ..errors import Refused
from ..settings import ServeConfig

Role = Literal["decide", "review", "admin"]
ROLES: tuple[Role, ...] = ("decide", "review", "admin")
"""``decide``: post and give feedback; ``review``: the moderator's page; ``admin``: forget subjects of all clients."""
PREFIX = "bf_"
LIVE_KEYS = 2
"""Of one client: the one that is sent, and the one that takes its place."""


class ApiClient(Strict):
    """Who may ask, and what, by one key; a client with two keys stands in the file twice."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\w.@+-]+$")]
    key_hash: str
    """SHA-256 of the key: keys are 256 random bits, which no dictionary holds."""
    roles: tuple[Role, ...] = ("decide",)
    per_minute: Annotated[int, Field(ge=1)] | None = None
    """Posts, feedback, appeals and requests to forget, by all keys of this name; None = as many as it likes."""
    created: str = ""
    revoked: str | None = None

    @property
    def key_id(self) -> str:
        """What its key is called where several are told apart; it opens nothing."""
        return self.key_hash[:8]

    def may(self, role: Role) -> bool:
        return role in self.roles or "admin" in self.roles


EVERYBODY = ApiClient(name="local", key_hash="", roles=ROLES)
"""Who asks where no key is needed."""


class KeyFile(Strict):
    """What the file holds."""

    clients: tuple[ApiClient, ...] = ()


def read_keys(path: Path) -> tuple[ApiClient, ...]:
    """The clients in a file; none where there is no file. Raises `RunError` where it is no file of keys."""
    if not path.exists():
        return ()
    try:
        return KeyFile.model_validate(json.loads(path.read_bytes())).clients
    except ValidationError as error:
        raise RunError(f"{path} is no file of API keys: {explain(error, KeyFile)}") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}): put it right; without it, nobody needs a key") from None


def read_clients(path: Path, folder: Path, settings: ServeConfig) -> tuple[ApiClient, ...]:
    """The clients of a service of ``folder``. Raises `RunError` as `read_keys`, and where there must be some."""
    clients = read_keys(path)
    if not clients and not settings.loopback and not settings.open:
        reached = settings.public_url or settings.host
        raise RunError(
            f"{reached} is reached by others, and {path} holds no API key: make one "
            f"(`bifocal keys add {folder} NAME --keys {path}`), listen on 127.0.0.1, or say that anybody "
            "may ask (--open)"
        )
    return clients


def add_key(path: Path, name: str, roles: Iterable[Role], per_minute: int | None) -> str:
    """A new client's key, which is told once and kept nowhere. Raises `RunError`: the name is taken, or unfit."""
    key = PREFIX + secrets.token_urlsafe(32)
    try:
        client = ApiClient(name=name, key_hash=_hash(key), roles=tuple(roles), per_minute=per_minute, created=now())
    except ValidationError as error:
        raise RunError(f"this client cannot be made: {explain(error, ApiClient)}") from None
    with _changing(path):
        clients = read_keys(path)
        if any(client.name == name and client.revoked is None for client in clients):
            raise RunError(
                f"{path} has a client {name!r} already: give it a second key (`bifocal keys rotate`), revoke its key "
                "first, or take another name"
            )
        _write(path, (*clients, client))
    return key


def rotate_key(path: Path, name: str) -> str:
    """A second key of a client, for the same and as often; the first one goes on until it is revoked.

    Raises
    ------
    RunError
        Where nobody bears the name, or it has two keys already.
    """
    key = PREFIX + secrets.token_urlsafe(32)
    with _changing(path):
        clients = read_keys(path)
        live = _live(path, clients, name)
        if len(live) >= LIVE_KEYS:
            raise RunError(
                f"{name} has {len(live)} keys ({', '.join(client.key_id for client in live)}), of at most "
                f"{LIVE_KEYS}: revoke the old one first (`bifocal keys revoke RUN NAME --old`)"
            )
        second = {"key_hash": _hash(key), "created": now()}
        _write(path, (*clients, live[-1].model_copy(update=second)))
    return key


def revoke_key(path: Path, name: str, *, old: bool = False, key_id: str | None = None) -> list[str]:
    """Take a client's keys away; its name stays in the file.

    Parameters
    ----------
    old : bool
        All but the newest.
    key_id : str, optional
        The one that `Client.key_id` names.

    Returns
    -------
    list of str
        The ids of those that were revoked.

    Raises
    ------
    RunError
        Where nobody bears the name, or has such a key.
    """
    with _changing(path):
        clients = read_keys(path)
        live = _live(path, clients, name)
        gone = live[:-1] if old else [c for c in live if key_id in (None, c.key_id)]
        if not gone:
            has = ", ".join(client.key_id for client in live)
            raise RunError(f"{name} has no {'older key' if old else f'key {key_id}'}; it has {has}")
        taken = {id(client) for client in gone}
        _write(path, tuple(c.model_copy(update={"revoked": now()}) if id(c) in taken else c for c in clients))
    return [client.key_id for client in gone]


def _live(path: Path, clients: Iterable[ApiClient], name: str) -> list[ApiClient]:
    """A client's entries whose keys are good, the oldest first. Raises `RunError` where there is none."""
    good = [client for client in clients if client.revoked is None]
    if live := [client for client in good if client.name == name]:
        return live
    known = ", ".join(dict.fromkeys(client.name for client in good)) or "nobody"
    raise RunError(f"{path} has no client {name!r} with a key; it has {known}")


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    """Two commands at once change the file one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with folder_lock(path.parent):
        yield


def _write(path: Path, clients: tuple[ApiClient, ...]) -> None:
    path.touch(mode=0o600)
    write_json(path, KeyFile(clients=clients).model_dump(mode="json"))
    path.chmod(0o600)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class KeyAuth:
    """Tells who asks, and whether it may.

    Parameters
    ----------
    clients : sequence of Client
        None: `EVERYBODY` asks, and a key that is sent is not looked at.
    """

    def __init__(self, clients: Iterable[ApiClient]):
        self.clients = tuple(clients)
        self._spent: dict[str, tuple[float, float]] = {}  # client -> tokens left, and when that was

    def update(self, clients: Iterable[ApiClient]) -> None:
        """Take another file's clients; what each has spent stays spent."""
        self.clients = tuple(clients)

    def who(self, key: str | None) -> ApiClient:
        """The client that bears a key.

        Raises
        ------
        Refused
            ``unauthorized`` without a key, or with one that is unknown or revoked.
        """
        if not self.clients:
            return EVERYBODY
        if not key:
            raise Refused("unauthorized", "an API key is needed: send `Authorization: Bearer KEY`")
        digest, found = _hash(key), None
        for client in self.clients:  # all of them, so that the time taken tells nothing
            if hmac.compare_digest(client.key_hash, digest):
                found = client
        if found is None:
            raise Refused("unauthorized", "this API key is not known here")
        if found.revoked is not None:
            raise Refused("unauthorized", f"this API key of {found.name} was revoked on {found.revoked}")
        return found

    def allow(self, client: ApiClient, role: Role, posts: int = 0) -> None:
        """Let a client do what a role may, with so many posts, or as many as what it writes counts for.

        Raises
        ------
        Refused
            ``forbidden`` where it has not the role, ``rate_limited`` where it has asked too often (a bucket of
            ``per_minute`` posts, refilled evenly), ``too_large`` where so many at once are never let through.
        """
        if not client.may(role):
            raise Refused("forbidden", f"the key of {client.name} is for {', '.join(client.roles)}, not for {role}")
        if posts:
            self._spend(client, posts)

    def spend(self, name: str) -> None:
        """Count what somebody writes who is signed in under a client's name. Raises `Refused` as `allow`."""
        for client in self.clients:
            if client.name == name and client.revoked is None:
                self._spend(client, 1)
                break

    def _spend(self, client: ApiClient, posts: int) -> None:
        if client.per_minute is None:
            return
        left, at = self._spent.get(client.name, (float(client.per_minute), monotonic()))
        left = min(client.per_minute, left + (monotonic() - at) * client.per_minute / 60)
        if posts > client.per_minute:
            raise Refused(
                "too_large", f"{client.name} may send {client.per_minute} posts a minute; this batch has {posts}"
            )
        if left < posts:
            wait = (posts - left) * 60 / client.per_minute
            raise Refused(
                "rate_limited",
                f"{client.name} may send {client.per_minute} posts a minute: try again in {wait:.1f} s",
                retry_after=wait,
            )
        self._spent[client.name] = left - posts, monotonic()
