"""What a service is told: where it listens, whom it answers, how much it takes on, and what it keeps."""

from __future__ import annotations

import os
import re
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from ..config import Strict
from ..errors import nearest

KEYS, DECISIONS = "keys.json", "decisions.sqlite"
"""Files of the state folder: the API keys and the decision log, where no others are named."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*/?")
OWN_PATHS = ("v1", "v1alpha1", "v2", "moderate", "metrics", "openapi.json")
"""What the paths of the service begin with."""
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]

CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip
"""All that OpenAI's answers name; ours has a score in those that `Moderations.categories` lists, 0 in the others."""


class ListSettings(Strict):
    """A list of known pictures, see `bifocal.serve.known_pictures`."""

    path: Path
    action: Literal["allow", "review", "block"] = "block"
    distance: Annotated[int, Field(ge=0, le=256)] = 0
    """PDQ bits that may differ; 0 = the same hash."""


class Moderations(Strict):
    """How our label is told in the place of OpenAI's moderation API."""

    categories: tuple[str, ...] = ("harassment",)
    """Of its categories those that our positive class is, by the run's first label."""
    labels: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Further label -> the categories that its positive class is; one that is not named is a category of its own."""
    flag_review: bool = True
    """Whether a post under review is flagged."""

    @field_validator("categories")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in CATEGORIES:
                raise ValueError(f"{name!r} is no category of OpenAI's; {nearest(name, CATEGORIES)}")
        return names


LANGUAGES = (
    "ace", "af", "am", "an", "ar", "ary", "arz", "as", "az", "ba", "bcl", "be", "bg", "bn", "br", "bs", "ca", "crh",
    "cs", "cy", "da", "de", "dz", "el", "en", "eo", "es", "et", "eu", "ext", "fa", "fi", "fo", "fr", "fuv", "fy",
    "ga", "gcf", "gcr", "gd", "gl", "gom", "grc", "gu", "gug", "guw", "ha", "hbo", "he", "hi", "hr", "ht", "hu",
    "hy", "id", "ig", "is", "it", "ja", "jv", "ka", "kab", "kik", "kk", "km", "kn", "ko", "ku", "ky", "la", "lb",
    "lg", "lij", "ln", "lo", "lt", "ltg", "lv", "mg", "mk", "ml", "mn", "mr", "ms", "mt", "my", "ne", "nl", "nn",
    "no", "nso", "oc", "om", "or", "pa", "pcm", "pl", "ps", "pt", "qu", "ro", "ru", "rw", "sa", "sdh", "se", "si",
    "sk", "sl", "sn", "so", "sq", "sr", "sr", "st", "sv", "sw", "ta", "te", "tg", "th", "tk", "tl", "tr", "tt",
    "ug", "uk", "ur", "uz", "uz", "uzs", "vec", "vi", "vo", "wa", "wuu", "xh", "yo", "yue", "zh", "zu",
)  # fmt: skip
"""Codes of ISO 639 of all languages that py3langid tells apart."""


class Perspective(Strict):
    """How our label is told in the place of Perspective's API."""

    attributes: tuple[str, ...] = ("TOXICITY",)
    """Those whose score is the probability of our positive class, by the run's first label; others are refused."""
    labels: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Further label -> those of its own; of one that is not named it is the label in capitals."""
    languages: tuple[str, ...] = LANGUAGES
    """Codes of ISO 639 of the languages that the run is good for: comments in others are refused."""

    @field_validator("languages")
    @classmethod
    def _told_apart(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in LANGUAGES:
                raise ValueError(f"{name!r} is no language that is told apart; {nearest(name, LANGUAGES)}")
        return names


class ServeConfig(Strict):
    """All settings of `bifocal serve`; a YAML file holds the same names."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    engine: str | None = None
    """None = as a bundle was exported, ``torch`` for a run folder."""
    strict_parity: bool = False
    """Whether a bundle that decides otherwise here than where it was exported is refused; else it is told on stderr."""
    allow_plugins: tuple[str, ...] = ()
    """Modules from outside, such as ``package.module``, that the run, bundle or shadow may name; others are refused."""
    state: Path | None = None
    """Folder of the decision log, keys and spool; None = ``serve/`` in the run's folder."""

    public_url: str | None = None
    """Where clients find the service that a reverse proxy hides, as ``https://mod.example/bifocal``."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of proxies that may say scheme and host of a request; not looked at with ``public_url``."""

    keys: Path | None = None
    """The file of API keys; None = ``keys.json`` in the state folder."""
    open: bool = False
    """Answer without keys on an address that others reach."""

    max_body: Count = 12 * 2**20
    """Bytes of a request."""
    max_bodies: Count = 256 * 2**20
    """Bytes of all requests that are being read."""
    body_timeout_s: Positive = 10.0
    """From a connection to a request's head, and from there to its last byte."""
    max_text: Count = 20_000
    """Characters of a text that are read; of a longer one the rest is not (``truncated``)."""
    max_items: Count = 64
    """Posts of a batch."""

    max_wait_ms: Annotated[float, Field(ge=0)] = 1.0
    """How long a post waits for others that are being decoded, where the encoders are idle."""
    batch_tokens: Count = 4096
    """Of a batch, padding counted."""
    batch_pictures: Count = 16
    """Of a batch."""
    waiting: Count = 128
    """Posts that wait for the encoders, or for a decoder; more are refused (429)."""
    deadline_s: Positive = 15.0
    """After which a post is given up (504)."""
    decoders: Count = max(1, min(8, os.cpu_count() or 1))
    """Processes that decode pictures and read the words on them."""
    decode_timeout_s: Positive = 10.0
    decode_memory_mib: Annotated[int, Field(ge=256)] = 1536
    """Address space of a decoder above what it has when it starts."""
    models: Count = 2
    """Processes that hold the models, each with a copy of its own and a share of the cores. Two decide more posts than
    one, whose threads wait for each other, and one that dies leaves the other; one needs half the memory, and decides
    a post that comes alone sooner."""
    model_timeout_s: Positive = 60.0
    """Of one batch; a model that takes longer is started anew."""
    drain_s: Annotated[float, Field(ge=0)] = 1.0
    """After SIGTERM: how long the service says that it is not ready, and still answers, before it closes."""
    reload_s: Positive = 2.0
    """How often policy, bundle, keys and lists are looked at for a change."""

    database: str | None = None
    """URL of the decision log; None = SQLite in the state folder."""
    database_gone: Literal["refuse", "spool"] = "refuse"
    """503 until it is back, or on to disk and into the database later."""
    audit_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Of allowed posts, drawn at random into the review queue."""
    keep_originals: bool = False
    keep_days: Count = 30
    """After which originals are purged."""

    lists: tuple[ListSettings, ...] = ()
    shadow: Path | None = None
    """A second run or bundle that scores every post and decides none."""
    moderations: Moderations = Moderations()
    perspective: Perspective = Perspective()

    @field_validator("public_url")
    @classmethod
    def _an_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        try:
            good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
        except ValueError:
            good = False
        if not good or "@" in parts.netloc or parts.query or parts.fragment or not _PREFIX.fullmatch(parts.path):
            raise ValueError(f"{url!r} is no address as https://mod.example or https://mod.example/bifocal")
        first = parts.path.split("/")[1] if parts.path.strip("/") else ""
        if first in OWN_PATHS:
            raise ValueError(f"{url!r} has a path that is the service's own; take none of {', '.join(OWN_PATHS)}")
        return url.rstrip("/")

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            try:
                ip_network(name, strict=False)
            except ValueError:
                raise ValueError(f"{name!r} is no IP address or network as 10.0.0.0/8") from None
        return names

    @property
    def prefix(self) -> str:
        """The path that every address of ours begins with outside; empty where the service is known by a name alone."""
        return urlsplit(self.public_url or "").path

    @property
    def origin(self) -> str:
        """Scheme, host and port of the public address, as browsers tell them; empty where there is none."""
        if self.public_url is None:
            return ""
        parts = urlsplit(self.public_url.lower())
        default = f":{ {'http': 80, 'https': 443}[parts.scheme] }"
        return f"{parts.scheme}://{parts.netloc.removesuffix(default)}"

    @cached_property
    def proxy_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        return tuple(ip_network(name, strict=False) for name in self.trusted_proxies)

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the service."""
        return self.host in LOOPBACK and self.public_url is None and not self.trusted_proxies
