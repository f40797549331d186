"""The only importer of boto3: clients with our timeouts, made late, once, and again in a forked child.

While a call is under way, DEBUG records of botocore and urllib3 are dropped: botocore.parsers logs whole answers,
and an answer of KMS holds the data key.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from streamcrypt.errors import ConfigError, StreamcryptError
from streamcrypt.keys.aws_kms.errors import is_botocore_error, map_failure
from streamcrypt.keys.aws_kms.names import check_endpoint, pick_endpoint

__all__ = ["CONNECT_SECONDS", "READ_SECONDS", "KMSClients", "forget_in_forked_child", "hush"]

_T = TypeVar("_T")

CONNECT_SECONDS = 1.0  # KMS answers in tens of milliseconds; botocore's 60 s would hold a partition for minutes
READ_SECONDS = 1.5  # below the retry budget of 2 s, so that one hang is followed by one more attempt
_POOL_CONNECTIONS = 64  # minting and opening at once, and what hangs in a region that went dark

_TALKATIVE = ("boto3", "botocore", "urllib3")
# Named besides those found, since a logger made only during the first call would be missed.
_KNOWN_LOGGERS = (
    "botocore.auth",
    "botocore.client",
    "botocore.endpoint",
    "botocore.hooks",
    "botocore.httpsession",
    "botocore.parsers",
    "botocore.retries.standard",
    "botocore.retryhandler",
    "botocore.awsrequest",
    "urllib3.connection",
    "urllib3.connectionpool",
)

_call_under_way = threading.local()


def _let_through(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG or not getattr(_call_under_way, "depth", 0)


def _install_filter() -> None:
    # A filter on a parent does not see the records of its children, so that each logger gets it.
    found = [name for name in list(logging.root.manager.loggerDict) if name.split(".")[0] in _TALKATIVE]
    for name in {*_TALKATIVE, *_KNOWN_LOGGERS, *found}:
        logging.getLogger(name).addFilter(_let_through)


@contextmanager
def hush() -> Iterator[None]:
    """Drop DEBUG records of boto3, botocore and urllib3 on this thread meanwhile."""
    _call_under_way.depth = getattr(_call_under_way, "depth", 0) + 1
    try:
        yield
    finally:
        _call_under_way.depth -= 1


class KMSClients:
    """One boto3 client per region, made at first use. Thread-safe; a forked child makes its own.

    Args:
        session: A ``boto3.session.Session``, or None for one of the usual credential chain.
        endpoints: One URL, one by region, or None for AWS itself.
        insecure_endpoint: Whether http is accepted beyond loopback.
        service: Which AWS service; default KMS.
        attempts: botocore's own of each call; default 1, since ``calls`` repeats what a record waits for.
        read_seconds: How long an answer may take.
    """

    def __init__(
        self,
        session: Any,
        endpoints: str | Mapping[str, str] | None,
        *,
        insecure_endpoint: bool,
        service: str = "kms",
        attempts: int = 1,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self._given_session = session
        self._endpoints = endpoints
        self._insecure = insecure_endpoint
        self._service = service
        self._attempts = attempts
        self._read_seconds = read_seconds
        self._closed = False
        self.forget()
        forget_in_forked_child(self)

    def forget(self) -> None:
        """Drop clients and lock without touching sockets, which a parent process may still use."""
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[str, Any] = {}

    def default_region(self) -> str:
        """Return the region of the environment, else of the profile.

        boto3 itself reads AWS_DEFAULT_REGION; AWS_REGION, which other AWS SDKs read, comes before it here.

        Raises:
            ConfigError: There is none.
        """
        with self._lock:
            elsewhere = os.environ.get("AWS_REGION") if self._given_session is None else None
            region = elsewhere or _guard(lambda: self._open_session().region_name, "session")
        if not region:
            raise ConfigError("no AWS region", remedy="Set region, or AWS_REGION, or give the key as an ARN.")
        return str(region)

    def credentials(self) -> Any:
        """Return botocore's credentials of the chain; None where there are none.

        Raises:
            ConfigError, KeyServiceError: They could not be had.
        """
        with self._lock:
            return _guard(lambda: self._open_session().get_credentials(), "session")

    def get(self, region: str) -> Any:
        """Return the client for a region.

        Raises:
            ConfigError: Settings, AWS configuration or the installation forbid one.
            KeyServiceError: Credentials could not be had.
        """
        client = self._clients.get(region)
        if client is not None:
            return client
        with self._lock:
            if self._closed:
                raise ConfigError("the key provider is closed")
            if region not in self._clients:
                self._clients[region] = _guard(lambda: self._make(region), "client")
            return self._clients[region]

    def _open_session(self) -> Any:
        if self._given_session is not None:
            return self._given_session
        if self._session is None:
            try:
                from boto3.session import Session
            except ImportError:
                raise ConfigError("boto3 is not installed", remedy="pip install 'streamcrypt[aws]'") from None
            self._session = Session()
        return self._session

    def _make(self, region: str) -> Any:
        session = self._open_session()
        from botocore.config import Config

        settings = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=self._read_seconds,
            # calls.py retries, and knows of the breaker and of what other threads have spent.
            retries={"mode": "standard", "total_max_attempts": self._attempts},
            tcp_keepalive=True,
            max_pool_connections=_POOL_CONNECTIONS,
            user_agent_extra="lib/streamcrypt",
        )
        endpoint = pick_endpoint(self._endpoints, region)
        client = session.client(self._service, region_name=region, endpoint_url=endpoint, config=settings)
        # AWS_ENDPOINT_URL and profiles can name an endpoint, too.
        check_endpoint(client.meta.endpoint_url, insecure=self._insecure)
        _install_filter()
        return client

    def renew(self) -> None:
        """Drop clients and session, so that the next call reads credentials and profiles anew."""
        with self._lock:
            clients, self._clients = self._clients, {}
            self._session = None
        for client in clients.values():
            client.close()

    def close(self) -> None:
        """Close every connection; :meth:`get` refuses from now on."""
        with self._lock:
            self._closed = True
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()


def _guard(make: Callable[[], _T], what: str) -> _T:
    try:
        return make()
    except StreamcryptError:
        raise
    except Exception as error:  # noqa: BLE001 - botocore raises its own tree and plain Python errors
        if is_botocore_error(error):
            raise map_failure(error, operation=what, key_id="") from None
        # Nothing was called yet, so that only an argument or the installation can be at fault.
        raise ConfigError(f"the AWS {what} cannot be made: {type(error).__name__}") from None


class _Forkable(Protocol):
    def forget(self) -> None: ...


_forkables: weakref.WeakSet[_Forkable] = weakref.WeakSet()


def forget_in_forked_child(item: _Forkable) -> None:
    """Have ``item.forget()`` called in every forked child: a lock held by another thread stays held there for ever."""
    _forkables.add(item)


def _after_fork_in_child() -> None:
    for item in list(_forkables):
        item.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
