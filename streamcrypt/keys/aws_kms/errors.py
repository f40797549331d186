"""Every failure of a KMS call, mapped to an error of ours: by error code or class, never by text.

Source: the errors of the KMS service model (API version 2014-11-01) and "Common Errors" of the KMS API reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamcrypt.errors import (
    AuthenticationFailed,
    ConfigError,
    KeyRefused,
    KeyServiceError,
    KeyUnavailable,
    StreamcryptError,
    UntrustedKey,
)

__all__ = [
    "ACCESS_DENIED",
    "CLIENT_ERRORS",
    "CREDENTIAL_CODES",
    "SERVICE_ERRORS",
    "Failure",
    "is_botocore_error",
    "map_failure",
    "outcome_of",
    "request_id_of",
]

ACCESS_DENIED = "AccessDeniedException"
_SHOWN_CHARACTERS = 400

_CREDENTIALS = (
    "Check the AWS credentials of this process (aws sts get-caller-identity) and renew them; see also the clock."
)
_ADMIN = "Look up {code} in the KMS API reference; an administrator of the key must act."


@dataclass(frozen=True, slots=True)
class Failure:
    """What an error code means to us: the class to raise, and the remedy, with ``{action}``, ``{key}``, ``{code}``."""

    kind: type[StreamcryptError]
    remedy: str = ""


_UNAVAILABLE = Failure(KeyUnavailable)
_DENIED = Failure(KeyRefused, "Allow {action} on {key} for this identity, in the key policy or in IAM.")
_NO_CREDENTIALS = Failure(KeyRefused, _CREDENTIALS)
_OPERATOR = Failure(KeyRefused, _ADMIN)
_CONFIG = Failure(ConfigError, "Check key_id, region and context.")
_RECORD = Failure(AuthenticationFailed)

SERVICE_ERRORS: Mapping[str, Failure] = {
    # a retry helps
    "ThrottlingException": _UNAVAILABLE,
    "Throttling": _UNAVAILABLE,
    "ThrottledException": _UNAVAILABLE,
    "TooManyRequestsException": _UNAVAILABLE,
    "RequestLimitExceeded": _UNAVAILABLE,
    "LimitExceededException": _UNAVAILABLE,  # botocore, too, takes it for throttling
    "KMSInternalException": _UNAVAILABLE,
    "DependencyTimeoutException": _UNAVAILABLE,
    "KeyUnavailableException": _UNAVAILABLE,
    "InternalFailure": _UNAVAILABLE,
    "InternalError": _UNAVAILABLE,
    "InternalServerError": _UNAVAILABLE,
    "ServiceUnavailable": _UNAVAILABLE,
    "ServiceUnavailableException": _UNAVAILABLE,
    "RequestTimeout": _UNAVAILABLE,
    "RequestTimeoutException": _UNAVAILABLE,
    "IDPCommunicationError": _UNAVAILABLE,
    # the record's
    "InvalidCiphertextException": _RECORD,
    "IncorrectKeyException": Failure(UntrustedKey),
    "KMSInvalidMacException": _RECORD,
    "KMSInvalidSignatureException": _RECORD,
    # an operator must act on key or policy
    ACCESS_DENIED: _DENIED,
    "AccessDenied": _DENIED,
    "NotAuthorized": _DENIED,
    "NotAuthorizedException": _DENIED,
    "OptInRequired": _DENIED,
    "DisabledException": Failure(KeyRefused, "Enable the key again: aws kms enable-key --key-id {key}"),
    "KMSInvalidStateException": Failure(
        KeyRefused,
        "Look at the key's state: aws kms describe-key --key-id {key}. Pending deletion is undone by "
        "cancel-key-deletion and enable-key.",
    ),
    "NotFoundException": Failure(
        KeyRefused, "Check that {key} exists in that account and region; a deleted key does not come back."
    ),
    # an operator must act on credentials
    "ExpiredToken": _NO_CREDENTIALS,
    "ExpiredTokenException": _NO_CREDENTIALS,
    "RequestExpired": _NO_CREDENTIALS,
    "UnrecognizedClientException": _NO_CREDENTIALS,
    "InvalidClientTokenId": _NO_CREDENTIALS,
    "InvalidAccessKeyId": _NO_CREDENTIALS,
    "InvalidSignatureException": _NO_CREDENTIALS,
    "SignatureDoesNotMatch": _NO_CREDENTIALS,
    "IncompleteSignature": _NO_CREDENTIALS,
    "IncompleteSignatureException": _NO_CREDENTIALS,
    "MissingAuthenticationToken": _NO_CREDENTIALS,
    "MissingAuthenticationTokenException": _NO_CREDENTIALS,
    "AuthFailure": _NO_CREDENTIALS,
    "InvalidIdentityToken": _NO_CREDENTIALS,
    "IDPRejectedClaim": _NO_CREDENTIALS,
    "RegionDisabledException": _NO_CREDENTIALS,
    # a setting is wrong
    "InvalidArnException": _CONFIG,
    "InvalidKeyUsageException": Failure(
        ConfigError, "Use a symmetric encryption key (SYMMETRIC_DEFAULT, ENCRYPT_DECRYPT); {key} is none."
    ),
    "UnsupportedOperationException": _CONFIG,
    "UnknownOperationException": Failure(ConfigError, "Check endpoint_url: what answers there does not know {action}."),
    "ValidationException": _CONFIG,
    "ValidationError": _CONFIG,
    "SerializationException": _CONFIG,
    "InvalidGrantTokenException": _CONFIG,
    "InvalidGrantIdException": _CONFIG,
    "InvalidAliasNameException": _CONFIG,
    "InvalidMarkerException": _CONFIG,
    "MalformedPolicyDocumentException": _CONFIG,
    "TagException": _CONFIG,
    # of operations that only an administrator calls
    "AlreadyExistsException": _OPERATOR,
    "ConflictException": _OPERATOR,
    "DryRunOperationException": _OPERATOR,
    "ExpiredImportTokenException": _OPERATOR,
    "IncorrectKeyMaterialException": _OPERATOR,
    "InvalidImportTokenException": _OPERATOR,
    "IncorrectTrustAnchorException": _OPERATOR,
    "CloudHsmClusterInUseException": _OPERATOR,
    "CloudHsmClusterInvalidConfigurationException": _OPERATOR,
    "CloudHsmClusterNotActiveException": _OPERATOR,
    "CloudHsmClusterNotFoundException": _OPERATOR,
    "CloudHsmClusterNotRelatedException": _OPERATOR,
    "CustomKeyStoreHasCMKsException": _OPERATOR,
    "CustomKeyStoreInvalidStateException": _OPERATOR,
    "CustomKeyStoreNameInUseException": _OPERATOR,
    "CustomKeyStoreNotFoundException": _OPERATOR,
    "XksKeyAlreadyInUseException": _OPERATOR,
    "XksKeyInvalidConfigurationException": _OPERATOR,
    "XksKeyNotFoundException": _OPERATOR,
    "XksProxyIncorrectAuthenticationCredentialException": _OPERATOR,
    "XksProxyInvalidConfigurationException": _OPERATOR,
    "XksProxyInvalidResponseException": _OPERATOR,
    "XksProxyUriEndpointInUseException": _OPERATOR,
    "XksProxyUriInUseException": _OPERATOR,
    "XksProxyUriUnreachableException": _OPERATOR,
    "XksProxyVpcEndpointServiceInUseException": _OPERATOR,
    "XksProxyVpcEndpointServiceInvalidConfigurationException": _OPERATOR,
    "XksProxyVpcEndpointServiceNotFoundException": _OPERATOR,
}
"""By the code of an answer. A test holds it against every error shape of botocore's KMS model."""

_REGION = Failure(ConfigError, "Set region, or AWS_REGION, or give the key as an ARN.")
_PROFILE = Failure(ConfigError, "Check AWS_PROFILE and the AWS configuration files.")

CLIENT_ERRORS: Mapping[str, Failure] = {
    "HTTPClientError": _UNAVAILABLE,  # and below it read timeouts and closed connections
    "ConnectionError": _UNAVAILABLE,  # and below it connect timeouts, TLS and proxy failures
    "IncompleteReadError": _UNAVAILABLE,
    "MetadataRetrievalError": _UNAVAILABLE,
    "ChecksumError": _UNAVAILABLE,
    "NoCredentialsError": _NO_CREDENTIALS,
    "PartialCredentialsError": _NO_CREDENTIALS,
    "CredentialRetrievalError": _NO_CREDENTIALS,
    "UnknownCredentialError": _NO_CREDENTIALS,
    "RefreshWithMFAUnsupportedError": _NO_CREDENTIALS,
    "NoAuthTokenError": _NO_CREDENTIALS,
    "TokenRetrievalError": _NO_CREDENTIALS,
    "LoginError": _NO_CREDENTIALS,
    "SSOError": _NO_CREDENTIALS,
    "NoRegionError": _REGION,
    "InvalidRegionError": _REGION,
    "UnknownRegionError": _REGION,
    "UnknownEndpointError": _REGION,
    "EndpointProviderError": _REGION,
    "BaseEndpointResolverError": _REGION,
    "ProfileNotFound": _PROFILE,
    "ConfigNotFound": _PROFILE,
    "ConfigParseError": _PROFILE,
    "InvalidConfigError": _PROFILE,
    "InvalidRetryConfigurationError": _PROFILE,
    "InvalidProxiesConfigError": _PROFILE,
    "MissingDependencyException": Failure(
        ConfigError, "Install what the AWS configuration needs: pip install 'botocore[crt]'"
    ),
    "ParamValidationError": _CONFIG,
    "ValidationError": _CONFIG,
}
"""By the class of botocore that raised, or one of its bases, the nearest first."""

CREDENTIAL_CODES = frozenset(
    code for table in (SERVICE_ERRORS, CLIENT_ERRORS) for code, failure in table.items() if failure is _NO_CREDENTIALS
)
"""Outcomes that blame the credentials: the next probe reads them anew."""

KEK_DISABLED = frozenset({"DisabledException", "NotFoundException"})
"""Outcomes that say for sure that the KEK is disabled or gone. KMSInvalidStateException may be a key store's outage as
well: only the key's state tells."""

# IAM knows two actions for one operation. Source: AWS KMS API reference, "ReEncrypt", required permissions.
_ACTIONS = {"ReEncrypt": "kms:ReEncryptFrom on the source KEK, and kms:ReEncryptTo"}
_UNWRAPS = {"Decrypt", "ReEncrypt"}
# What KMS or botocore finds malformed in one of these comes from the record: the key's name is ours and was checked.
_RECORD_FAULTS_IN_DECRYPT = {"ValidationException", "ValidationError", "SerializationException", "ParamValidationError"}


def outcome_of(error: BaseException) -> str:
    """Name a failure for events: the service's error code, else the class."""
    answer = getattr(error, "response", None)
    code = answer.get("Error", {}).get("Code") if isinstance(answer, dict) else None
    return str(code) if code else type(error).__name__


def request_id_of(answer: Mapping[str, Any]) -> str:
    """Return the request id of an answer, an error's or another; empty where there is none."""
    return str(answer.get("ResponseMetadata", {}).get("RequestId", ""))


def map_failure(error: Exception, *, operation: str, key_id: str) -> StreamcryptError:
    """Turn whatever a KMS call raised into an error of ours. Raise the result ``from None``.

    Args:
        error: From botocore, or anything else that went wrong inside the call.
        operation: The KMS operation, such as ``Decrypt``.
        key_id: The KEK that was named in it.
    """
    code = outcome_of(error)
    answer: dict[str, Any] = getattr(error, "response", None) or {}
    failure = _find(error, code, answer)
    if operation in _UNWRAPS and failure.kind is ConfigError:
        failure = _RECORD if code in _RECORD_FAULTS_IN_DECRYPT else Failure(KeyRefused, failure.remedy)
    text = _describe(error, code, answer, operation, key_id)
    remedy = failure.remedy.format(action=_ACTIONS.get(operation, f"kms:{operation}"), key=key_id, code=code)
    if issubclass(failure.kind, KeyServiceError):
        mapped = failure.kind(text, operation=operation, key_id=key_id, request_id=request_id_of(answer), remedy=remedy)
        mapped.kek_is_disabled = code in KEK_DISABLED
        return mapped
    if failure.kind is AuthenticationFailed:
        return AuthenticationFailed("the data key cannot be opened")
    return failure.kind(text, remedy=remedy)


def _find(error: Exception, code: str, answer: dict[str, Any]) -> Failure:
    if answer:
        known = SERVICE_ERRORS.get(code)
        return known or _by_status(answer.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    if is_botocore_error(error):
        named = (CLIENT_ERRORS.get(base.__name__) for base in type(error).__mro__)
        # One that is not listed is a setting or an installation: repeating the call mends neither.
        return next((failure for failure in named if failure), _OPERATOR)
    # An answer that could not be read: garbage from something in between, which passes.
    return _UNAVAILABLE


def _by_status(status: object) -> Failure:
    # An unknown code with 5xx or 429 is the service's trouble. Any other is a refusal: repeating it is a storm.
    retry_helps = not isinstance(status, int) or status >= 500 or status == 429  # noqa: PLR2004 - HTTP's own numbers
    return _UNAVAILABLE if retry_helps else _OPERATOR


def is_botocore_error(error: Exception) -> bool:
    """Whether botocore raised this by itself, without an answer. Told by name, so that botocore need not be loaded."""
    return any(base.__name__ == "BotoCoreError" for base in type(error).__mro__)


def _describe(error: Exception, code: str, answer: dict[str, Any], operation: str, key_id: str) -> str:
    head = f"KMS {operation} for {key_id or 'an unnamed key'}: {code}"
    asked = getattr(error, "operation_name", operation)
    if asked != operation:
        head += f" from {asked}"
    said = str(answer.get("Error", {}).get("Message") or "") if answer else ""
    shown = "".join(character for character in said if character.isprintable())[:_SHOWN_CHARACTERS]
    return f"{head}: {shown}" if shown else head
