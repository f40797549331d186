"""Every failure that botocore can hand us has its place in our tree."""

from __future__ import annotations

import botocore.exceptions
import botocore.session
import pytest
from botocore.exceptions import ClientError

from streamcrypt.errors import (
    AuthenticationFailed,
    ConfigError,
    KeyRefused,
    KeyServiceError,
    KeyUnavailable,
    StreamcryptError,
    UntrustedKey,
)
from streamcrypt.keys.aws_kms.errors import CLIENT_ERRORS, SERVICE_ERRORS, is_botocore_error, map_failure, outcome_of

KEY = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
MODEL = botocore.session.get_session().get_service_model("kms")
SHAPES = sorted(shape.name for shape in MODEL.error_shapes)
OUR_CALLS = ("GenerateDataKey", "Decrypt", "DescribeKey")


def answer(code: str, status: int = 400, operation: str = "GenerateDataKey", message: str = "said the service"):
    response = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "request-1"},
    }
    return ClientError(response, operation)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_error_shape_of_the_service_model_is_mapped_by_name(shape):
    """A shape that a new botocore brings fails here until someone decides what it means."""
    assert shape in SERVICE_ERRORS
    mapped = map_failure(answer(shape), operation="GenerateDataKey", key_id=KEY)
    assert type(mapped) is SERVICE_ERRORS[shape].kind


def test_the_model_still_has_the_errors_that_our_three_operations_declare():
    """The walk above is not empty, and what our calls declare is a part of it."""
    declared = {shape.name for call in OUR_CALLS for shape in MODEL.operation_model(call).error_shapes}
    assert {"DisabledException", "InvalidCiphertextException"} <= declared <= set(SHAPES)


def test_no_mapping_names_a_class_that_botocore_does_not_have():
    """A class renamed by botocore would otherwise fall through in silence."""
    assert all(hasattr(botocore.exceptions, name) for name in CLIENT_ERRORS)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("ThrottlingException", KeyUnavailable),
        ("LimitExceededException", KeyUnavailable),
        ("KMSInternalException", KeyUnavailable),
        ("DependencyTimeoutException", KeyUnavailable),
        ("KeyUnavailableException", KeyUnavailable),
        ("AccessDeniedException", KeyRefused),
        ("DisabledException", KeyRefused),
        ("KMSInvalidStateException", KeyRefused),
        ("NotFoundException", KeyRefused),
        ("ExpiredTokenException", KeyRefused),
        ("UnrecognizedClientException", KeyRefused),
        ("InvalidSignatureException", KeyRefused),
        ("MissingAuthenticationTokenException", KeyRefused),
        ("InvalidCiphertextException", AuthenticationFailed),
        ("IncorrectKeyException", UntrustedKey),
        ("InvalidArnException", ConfigError),
        ("InvalidKeyUsageException", ConfigError),
        ("UnsupportedOperationException", ConfigError),
        ("ValidationException", ConfigError),
    ],
)
def test_each_code_says_whose_fault_it_is(code, kind):
    """The table of the design, spelled out."""
    assert type(map_failure(answer(code), operation="GenerateDataKey", key_id=KEY)) is kind


def test_a_refusal_names_operation_key_request_and_remedy():
    """An operator finds the call in CloudTrail and knows which permission to give."""
    mapped = map_failure(answer("AccessDeniedException"), operation="Decrypt", key_id=KEY)
    assert isinstance(mapped, KeyRefused)
    assert (mapped.operation, mapped.key_id, mapped.request_id) == ("Decrypt", KEY, "request-1")
    assert "kms:Decrypt" in mapped.remedy
    assert KEY in mapped.remedy
    assert "credentials" in map_failure(answer("ExpiredTokenException"), operation="Decrypt", key_id=KEY).remedy


def test_every_remedy_fills_its_places():
    """No remedy shows a brace to an operator."""
    for code in SERVICE_ERRORS:
        mapped = map_failure(answer(code), operation="GenerateDataKey", key_id=KEY)
        assert "{" not in mapped.remedy


@pytest.mark.parametrize("code", ["ValidationException", "SerializationException"])
def test_what_kms_finds_malformed_in_a_decrypt_is_the_records_fault(code):
    """Context and ciphertext of a Decrypt come from the record, which may not stop its neighbours."""
    assert isinstance(
        map_failure(answer(code, operation="Decrypt"), operation="Decrypt", key_id=KEY), AuthenticationFailed
    )


@pytest.mark.parametrize("code", sorted(SERVICE_ERRORS))
def test_a_decrypt_raises_no_config_error(code):
    """The contract of decrypt_data_key knows four errors, and ConfigError is none of them."""
    mapped = map_failure(answer(code, operation="Decrypt"), operation="Decrypt", key_id=KEY)
    assert isinstance(mapped, (AuthenticationFailed, UntrustedKey, KeyServiceError))


@pytest.mark.parametrize(
    ("status", "kind"),
    [(500, KeyUnavailable), (503, KeyUnavailable), (429, KeyUnavailable), (400, KeyRefused), (403, KeyRefused)],
)
def test_an_unknown_code_is_judged_by_its_status(status, kind):
    """5xx and 429 pass by themselves; another refusal, repeated blindly, would be a storm."""
    assert type(map_failure(answer("BrandNewException", status), operation="Decrypt", key_id=KEY)) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (botocore.exceptions.ConnectTimeoutError(endpoint_url="https://kms"), KeyUnavailable),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="https://kms"), KeyUnavailable),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="https://kms"), KeyUnavailable),
        (botocore.exceptions.ConnectionClosedError(endpoint_url="https://kms"), KeyUnavailable),
        (botocore.exceptions.SSLError(endpoint_url="https://kms", error="x"), KeyUnavailable),
        (botocore.exceptions.ProxyConnectionError(proxy_url="http://proxy", error="x"), KeyUnavailable),
        (botocore.exceptions.HTTPClientError(error="x"), KeyUnavailable),
        (botocore.exceptions.NoCredentialsError(), KeyRefused),
        (botocore.exceptions.PartialCredentialsError(provider="env", cred_var="x"), KeyRefused),
        (botocore.exceptions.CredentialRetrievalError(provider="x", error_msg="x"), KeyRefused),
        (botocore.exceptions.UnauthorizedSSOTokenError(), KeyRefused),
        (botocore.exceptions.NoRegionError(), ConfigError),
        (botocore.exceptions.InvalidRegionError(region_name="x y"), ConfigError),
        (botocore.exceptions.ProfileNotFound(profile="x"), ConfigError),
        (botocore.exceptions.ParamValidationError(report="x"), ConfigError),
        (botocore.exceptions.DataNotFoundError(data_path="x"), KeyRefused),
        (AttributeError("'list' object has no attribute 'get'"), KeyUnavailable),
        (ValueError("base64"), KeyUnavailable),
        (ConnectionResetError(), KeyUnavailable),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.__name__,
)
def test_failures_without_an_answer_are_judged_by_class(error, kind):
    """Network trouble passes, credentials need an operator, the rest is a setting; garbage is network trouble."""
    assert type(map_failure(error, operation="GenerateDataKey", key_id=KEY)) is kind


def test_every_class_of_botocore_maps_to_our_tree():
    """Whatever class botocore raises, the result is one of ours."""
    for thing in vars(botocore.exceptions).values():
        if not isinstance(thing, type) or not issubclass(thing, botocore.exceptions.BotoCoreError):
            continue
        error = thing.__new__(thing)
        assert is_botocore_error(error)
        assert isinstance(map_failure(error, operation="GenerateDataKey", key_id=KEY), StreamcryptError)


def test_a_refusal_by_another_service_is_named():
    """A role that cannot be assumed shows as what it is, not as a refusal by KMS."""
    mapped = map_failure(answer("AccessDenied", operation="AssumeRole"), operation="Decrypt", key_id=KEY)
    assert "AssumeRole" in str(mapped)


def test_texts_are_bounded_and_hold_no_parameter():
    """Texts of botocore's validation show parameters, and those of a broken endpoint may show anything."""
    mapped = map_failure(answer("AccessDeniedException", message="\n" + "x" * 5000), operation="Decrypt", key_id=KEY)
    assert len(str(mapped)) < 1000
    assert "\n" not in str(mapped)
    report = botocore.exceptions.ParamValidationError(report="value: secret-bytes")
    assert "secret-bytes" not in str(map_failure(report, operation="GenerateDataKey", key_id=KEY))


def test_the_outcome_is_the_code_or_the_class():
    """Metrics count by code where the service answered, and by class where nothing came."""
    assert outcome_of(answer("DisabledException")) == "DisabledException"
    assert outcome_of(botocore.exceptions.NoRegionError()) == "NoRegionError"
