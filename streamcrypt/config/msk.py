"""How clients log in at Amazon MSK: with the AWS identity of the process, or with a role that it assumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from streamcrypt.config.fields import refusal, refused_as_setting
from streamcrypt.keys.aws_kms.names import check_region

__all__ = ["MSKIAMSettings", "check_alone"]

_OURS = ("sasl.mechanism", "sasl.mechanisms", "sasl.oauthbearer.", "sasl.username", "sasl.password")


class MSKIAMSettings(BaseModel):
    """The identity that tokens are signed with. Needs the extra ``msk``. Source: Amazon MSK, "IAM access control"."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    region: str = Field(min_length=1, examples=["eu-west-1"], description="The AWS region of the cluster.")
    role_arn: str | None = Field(
        default=None,
        pattern=r"^arn:[a-z-]+:iam::[0-9]{12}:role/\S+$",
        description="A role to assume first, such as one of the cluster's account. By default the identity of the"
        " process: IRSA, Pod Identity, instance profile, environment.",
    )
    profile: str | None = Field(
        default=None, min_length=1, description="A profile of the AWS configuration files, for workstations."
    )

    @field_validator("region")
    @classmethod
    def _check_region(cls, value: str) -> str:
        with refused_as_setting("region: ", "Write a region such as eu-west-1."):
            return check_region(value)

    @model_validator(mode="after")
    def _one_identity(self) -> Self:
        if self.role_arn is not None and self.profile is not None:
            raise refusal("role_arn and profile are both set", "Keep one of them; a profile may name a role itself.")
        return self


def check_alone(properties: Mapping[str, Any], msk_iam: MSKIAMSettings | None) -> None:
    """Refuse properties that contradict MSK IAM: another way to log in, or a link that would show the token."""
    if msk_iam is None:
        return
    for name in properties:
        if name.startswith(_OURS):
            raise refusal(f"{name} does not go with msk_iam, which logs in by itself", "Remove one of the two.")
    protocol = str(properties.get("security.protocol", "SASL_SSL"))
    if protocol.lower() != "sasl_ssl":
        raise refusal("security.protocol with msk_iam is SASL_SSL", "Remove the line, and use the cluster's port 9098.")
