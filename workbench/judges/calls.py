"""Calls to an OpenAI-compatible address: one chat completion each, tried again where that may help.

    POST {url}/chat/completions      model, messages, ...  →  choices[0].message.content, and usage

    again        429, 408 and 5xx, a time-out, a closed connection, what is no JSON: after `backoff` · 2^n seconds, or
                 when Retry-After says so, all calls of a run together
    unanswered   a content filter, any other refusal of one request (4xx), or all tries in vain
    the end      401, 403, 404, 405, a redirect, nobody there: no other request would fare better

The trap: whoever answers may repeat what it was sent, the key included. What is told of an answer is told without it.
"""

import ipaddress
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

_AGAIN = (408, 425, 429)
_HOPELESS = {
    401: "name the environment variable that holds the key, key_env=",
    403: "name the environment variable that holds the key, key_env=, or ask for access",
    404: "check url=, which mostly ends in /v1, and the model's name",
    405: "check url=, which mostly ends in /v1",
}
_SHOWN = 200


class CallError(OSError):
    """An address that no call will come through to as things are, and what to do about it."""


class _Transient(Exception):
    """A call that may do better next time; `wait` is what the server asks for, in seconds."""

    def __init__(self, reason: str, wait: float | None = None, *, unreached: bool = False) -> None:
        self.wait, self.unreached = wait, unreached
        super().__init__(reason)


@dataclass(frozen=True)
class Answer:
    """What came of a call: the text, or why there is none; and the tokens that it took."""

    text: str | None
    why: str = ""
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True)
class Address:
    """Where calls go, and how patiently. `key_env` names the environment variable of the key, which is kept nowhere."""

    url: str
    model: str
    key_env: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    timeout: float | int = 60.0
    retries: int = 5
    backoff: float | int = 1.0
    patience: float | int = 300.0
    per_minute: float | int | None = None

    def __post_init__(self) -> None:
        found = urlsplit(self.url)
        shown = found._replace(netloc=found.netloc.rpartition("@")[2], query="").geturl()
        if found.scheme not in ("http", "https") or not found.hostname:
            raise ValueError(f"got url={shown!r}, expected an address like http://127.0.0.1:8000/v1")
        if found.username or found.password or found.query:
            raise ValueError(
                f"got a url with a user, a password or a query ({shown}): put secrets into an environment variable and "
                "name it, key_env="
            )
        for name, value, least in (("timeout", self.timeout, 0.0), ("backoff", self.backoff, -1e-9)):
            if not value > least:
                raise ValueError(f"got {name}={value}: expected seconds, more than none")
        if type(self.retries) is not int or self.retries < 0:
            raise ValueError(f"got retries={self.retries}: expected 0 or more")
        if self.per_minute is not None and not self.per_minute > 0:
            raise ValueError(
                f"got per_minute={self.per_minute}: expected more than 0 calls, or None for no limit"
            )
        if self.key_env is not None and found.scheme == "http" and not self.is_here:
            raise ValueError(
                f"got key_env={self.key_env!r} with {shown}, where anyone on the way can read the key: use https"
            )

    @property
    def is_here(self) -> bool:
        """Whether it is this machine: nothing leaves it."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def host(self) -> str:
        """The machine that hears of it."""
        return urlsplit(self.url).hostname or ""

    def key(self) -> str | None:
        """The key, from the environment as it is now."""
        if self.key_env is None:
            return None
        key = os.environ.get(self.key_env, "").strip()
        if not key:
            raise ValueError(
                f"the environment variable {self.key_env} is empty or not set: it should hold the key for {self.host}"
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(
                f"the environment variable {self.key_env} holds what is no key: it has blanks, line breaks or letters "
                "beyond ASCII"
            )
        return key


class Caller:
    """An open connection to an address, for many threads. `stop` ends all waiting."""

    def __init__(self, address: Address, concurrency: int) -> None:
        self.address, self.stop = address, threading.Event()
        self._key = address.key()
        self._lock = threading.Lock()
        self._next = 0.0
        # To this machine itself no proxy of the environment is asked: it may be another's.
        self._client = httpx.Client(
            timeout=address.timeout,
            trust_env=not address.is_here,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=concurrency),
            headers={} if self._key is None else {"Authorization": f"Bearer {self._key}"},
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def call(self, messages: list[dict[str, str]]) -> Answer:
        """One answer; unanswered with the reason where all tries are in vain.

        Raises `CallError` where no other call would fare better.
        """
        body = {"model": self.address.model, "messages": messages, **self.address.options}
        tries = self.address.retries + 1
        for number in range(tries):
            self._wait_in_turn()
            if self.stop.is_set():
                break
            try:
                return self._once(body)
            except _Transient as error:
                last = error
            if number + 1 < tries:
                wait = self.address.backoff * 2**number if last.wait is None else last.wait
                if last.wait is None:  # nobody asked for it: our own pauses grow no longer than patience
                    wait = min(wait, self.address.patience)
                if wait > self.address.patience:
                    raise CallError(
                        f"{self.address.host} asks to be left alone for {wait:,.0f} seconds ({last}): start again "
                        "then, or wait that long, patience="
                    )
                self._hold(wait, everybody=last.wait is not None)
        if self.stop.is_set():
            return Answer(None, "stopped")
        if last.unreached:
            raise CallError(f"nobody answers at {self.address.url} ({last}): start the server, or check url=")
        return Answer(None, f"unanswered after {tries} {'try' if tries == 1 else 'tries'}: {last}")

    def _once(self, body: Mapping[str, Any]) -> Answer:
        try:
            response = self._client.post(f"{self.address.url.rstrip('/')}/chat/completions", json=body)
        except httpx.ConnectError as error:
            raise _Transient(self._told(str(error)), unreached=True) from None
        except httpx.TimeoutException as error:
            unreached = isinstance(error, httpx.ConnectTimeout)
            raise _Transient(f"no answer within {self.address.timeout:g} s", unreached=unreached) from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _Transient(self._told(f"the connection broke, {error}")) from None
        status = response.status_code
        if status in _AGAIN or status >= 500:
            raise _Transient(f"HTTP {status}", _retry_after(response))
        if status in _HOPELESS:
            raise CallError(
                f"{self.address.host} answers HTTP {status} ({self._told(_complaint(response))}): {_HOPELESS[status]}"
            )
        if 300 <= status < 400:
            raise CallError(
                f"{self.address.host} sends calls elsewhere (HTTP {status}), where none is sent: name the right url="
            )
        if status >= 400:
            complaint = self._told(_complaint(response))
            return Answer(
                None, "content filter" if "content_filter" in response.text else f"HTTP {status}: {complaint}"
            )
        return self._read(response)

    def _read(self, response: httpx.Response) -> Answer:
        try:
            told = response.json()
            choice = told["choices"][0]
            text, ended = choice["message"].get("content"), choice.get("finish_reason")
            usage = told.get("usage") or {}
            spent = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _Transient(f"no chat completion: {self._told(response.text)!r}") from None
        if ended == "content_filter":
            return Answer(None, "content filter", *spent)
        if not isinstance(text, str) or not text.strip():
            return Answer(None, f"an empty answer (finish_reason {ended!r})", *spent)
        return Answer(self._without_key(text), "cut off" if ended == "length" else "", *spent)

    def _wait_in_turn(self) -> None:
        """Until this call may go: after whatever all are told to wait for, and no more than so many a minute."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + (60 / self.address.per_minute if self.address.per_minute else 0.0)
        self.stop.wait(max(0.0, turn - now))

    def _hold(self, seconds: float, *, everybody: bool) -> None:
        if everybody:
            with self._lock:
                self._next = max(self._next, time.monotonic() + seconds)
        else:
            self.stop.wait(seconds)

    def _told(self, text: str) -> str:
        return self._without_key(" ".join(text.split()))[:_SHOWN]

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _retry_after(response: httpx.Response) -> float | None:
    """The seconds that a Retry-After asks for, given as such or as a date; None without one that can be read."""
    given = response.headers.get("Retry-After", "").strip()
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _complaint(response: httpx.Response) -> str:
    """What the server says is wrong, in its usual place or as it is."""
    try:
        told = response.json()["error"]
        return str(told["message"] if isinstance(told, dict) else told)
    except (ValueError, KeyError, TypeError):
        return response.text
