"""Login tokens for Amazon MSK with IAM: the only importer of aws-msk-iam-sasl-signer-python.

confluent-kafka (2.13 and later) asks for a token in a thread of its own, at 80 % of the life of the last one, for
consumers, producers and admin clients, idle ones too; where none comes it asks again after 10 s. It swallows why.
Source: confluent-kafka-python#2130; librdkafka, ``rd_kafka_sasl_background_callbacks_enable``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from streamcrypt.errors import ConfigError, StreamcryptError
from streamcrypt.events import BrokerTokenFailed, Observer

__all__ = ["LOGGER", "BrokerLoginFailed", "MSKTokens"]

LOGGER = "streamcrypt.msk_iam"
"""Name of the logger that tells of failures where no observer does."""

_MILLISECONDS = 1000
_YOUNG = 60.0
_REMEDY = "Give this process AWS credentials (IRSA, Pod Identity, instance profile, AWS_PROFILE), as for AWS KMS."


class BrokerLoginFailed(StreamcryptError):
    """AWS gives no identity to log in with at the brokers. A retry helps where AWS was away."""

    retriable = True
    remedy = _REMEDY


class MSKTokens:
    """What confluent-kafka takes as ``oauth_cb``: gives a token, and says so where there is none.

    Args:
        region: Of the cluster.
        role_arn: A role to assume for each token.
        profile: A profile of the AWS configuration, instead.
        client: Who logs in, for events.
        observer: Told of failures; None: they are logged under :data:`LOGGER`.

    Raises:
        ConfigError: The extra ``msk`` is not installed.
    """

    def __init__(
        self,
        region: str,
        role_arn: str | None = None,
        profile: str | None = None,
        *,
        client: str = "",
        observer: Observer | None = None,
    ) -> None:
        try:
            from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
        except ModuleNotFoundError:
            raise ConfigError(
                "kafka.msk_iam needs the signer of AWS", remedy="pip install 'streamcrypt[sidecar,msk]'"
            ) from None
        signer = MSKAuthTokenProvider
        self._sign: Callable[[], tuple[str, int]] = lambda: signer.generate_auth_token(region)
        if role_arn is not None:
            self._sign = lambda: signer.generate_auth_token_from_role_arn(region, role_arn, "streamcrypt")
        elif profile is not None:
            self._sign = lambda: signer.generate_auth_token_from_profile(region, profile)
        self._client = client
        self._observer = observer
        self._first: tuple[str, float] | None = None
        self._made = 0.0

    def begin(self) -> None:
        """Make the first token now: a client that is given none waits for 10 s, and then does not say why.

        Raises:
            BrokerLoginFailed: There is no token to be had.
        """
        self._first, self._made = self._token(), time.monotonic()

    def __call__(self, _config: str) -> tuple[str, float]:
        """Give a token and when it expires, in seconds since the epoch.

        Raises:
            BrokerLoginFailed: There is none; it has been told of.
        """
        first, self._first = self._first, None
        if first is not None and time.monotonic() - self._made < _YOUNG:
            return first
        try:
            return self._token()
        except BrokerLoginFailed as error:
            self._tell(error)
            raise

    def _token(self) -> tuple[str, float]:
        try:
            token, expiry = self._sign()
        except AttributeError:
            # The signer looks into credentials that are None.
            raise BrokerLoginFailed("no AWS credentials to log in at the brokers with") from None
        except Exception as error:  # noqa: BLE001  whatever a credential provider raises; its thread must not die of it
            detail = f"{type(error).__name__}: {error}"
            raise BrokerLoginFailed(f"AWS gives no identity to log in at the brokers with: {detail}") from None
        return token, expiry / _MILLISECONDS

    def _tell(self, error: BrokerLoginFailed) -> None:
        if self._observer is not None:
            self._observer(BrokerTokenFailed(self._client, type(error).__name__, str(error)))
        else:
            logging.getLogger(LOGGER).warning("%s: %s", self._client, error)
