"""Internal: aliases, tags and key policies of the test KMS. Source: the AWS KMS API reference (2014-11-01)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from streamcrypt.testing.kms_call import Call, Members, page
from streamcrypt.testing.kms_conditions import Facts, PolicyError
from streamcrypt.testing.kms_model import KMSKey, ServiceError
from streamcrypt.testing.kms_policy import Policy
from streamcrypt.testing.kms_region import default_policy

__all__ = ["ALIAS_NAME", "ATTRIBUTES", "bypass_facts", "read_policy", "read_tags", "require_no_lockout"]

ALIAS_NAME = re.compile(r"alias/[a-zA-Z0-9/_-]{1,250}")
_MAX_TAGS = 50
_LOCKED_OUT = "The new key policy will not allow you to update the key policy in the future."


def _alias_name(call: Call) -> str:
    name = call.text("AliasName")
    if not ALIAS_NAME.fullmatch(name):
        raise ServiceError("ValidationException", f"Alias must start with the prefix \"alias/\": '{name}'")
    if name.startswith("alias/aws/"):
        raise ServiceError("NotAuthorizedException", f"{name} is reserved for AWS managed keys.")
    return name


def _authorize_alias(call: Call, name: str, *keys: KMSKey) -> None:
    # The alias is judged by the caller's identity policies, each key by its own policy too.
    call.authorize(call.operation, resource=call.region.alias_arn(name))
    for key in keys:
        call.authorize(call.operation, key)


def _known_alias(call: Call) -> tuple[str, KMSKey]:
    name = _alias_name(call)
    if name not in call.region.aliases:
        raise ServiceError("NotFoundException", f"Alias {call.region.alias_arn(name)} is not found.")
    return name, call.region.resolve(name)


def _create_alias(call: Call) -> None:
    name = _alias_name(call)
    target = call.find("TargetKeyId")
    _authorize_alias(call, name, target)
    if name in call.region.aliases:
        raise target.error(
            "AlreadyExistsException", f"An alias with the name {call.region.alias_arn(name)} already exists"
        )
    target.require_state()
    call.region.aliases[name] = target.id


def _update_alias(call: Call) -> None:
    name, old = _known_alias(call)
    target = call.find("TargetKeyId")
    _authorize_alias(call, name, old, target)
    target.require_state()
    if (old.shared.spec, old.shared.usage) != (target.shared.spec, target.shared.usage):
        raise target.error("ValidationException", "An alias moves only between keys of one spec and usage.")
    call.region.aliases[name] = target.id


def _delete_alias(call: Call) -> None:
    name, key = _known_alias(call)
    _authorize_alias(call, name, key)
    del call.region.aliases[name]


def _list_aliases(call: Call) -> Members:
    call.authorize("ListAliases")
    wanted = call.find().id if call.members.get("KeyId") else None
    listed = [
        {"AliasName": name, "AliasArn": call.region.alias_arn(name), "TargetKeyId": target}
        for name, target in sorted(call.region.aliases.items())
        if wanted in {None, target}
    ]
    return page(call, listed, "Aliases", 50, 100)


# ---- tags ----


def read_tags(call: Call) -> dict[str, str]:
    """Return the Tags member; empty where there is none."""
    tags = call.members.get("Tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, dict) and tag.get("TagKey") for tag in tags):
        raise ServiceError("TagException", "Tags are pairs of TagKey and TagValue.")
    pairs = {str(tag["TagKey"]): str(tag.get("TagValue", "")) for tag in tags}
    if len(pairs) < len(tags) or any(name.lower().startswith("aws:") for name in pairs):
        raise ServiceError("TagException", "Tag keys are unique and do not start with aws:.")
    return pairs


def _tag_resource(call: Call) -> None:
    key = call.key()
    key.require_state()
    tags = key.tags | read_tags(call)
    if len(tags) > _MAX_TAGS:
        raise key.error("LimitExceededException", f"A key has at most {_MAX_TAGS} tags.")
    key.tags = tags


def _untag_resource(call: Call) -> None:
    key = call.key()
    key.require_state()
    for name in call.members.get("TagKeys") or []:
        key.tags.pop(name, None)


def _list_resource_tags(call: Call) -> Members:
    tags = [{"TagKey": name, "TagValue": value} for name, value in call.key().tags.items()]
    return page(call, tags, "Tags", 50, 50)


# ---- key policies ----


def read_policy(call: Call) -> str:
    """Return the Policy member, checked, or the default key policy.

    Raises:
        ServiceError: MalformedPolicyDocumentException: IAM would refuse it.
    """
    if call.members.get("Policy") is None:
        return default_policy(call.world.account)
    document = call.text("Policy")
    try:
        Policy.parse(document, of_key=True)
    except PolicyError as error:
        raise ServiceError("MalformedPolicyDocumentException", str(error)) from None
    return document


def _policy_name(call: Call) -> str:
    name = str(call.members.get("PolicyName", "default"))
    if name != "default":
        raise ServiceError("NotFoundException", f"No such policy exists: {name}")
    return name


def _put_key_policy(call: Call) -> None:
    call.text("Policy")
    document = read_policy(call)
    key = call.key(facts={"kms:PolicyName": ("default",), **bypass_facts(call)})
    key.require_state()
    _policy_name(call)
    require_no_lockout(call, key, document)
    key.policy = document


def bypass_facts(call: Call) -> Facts:
    """The condition key that says whether the lockout check is bypassed."""
    bypass = bool(call.members.get("BypassPolicyLockoutSafetyCheck"))
    return {"kms:BypassPolicyLockoutSafetyCheck": (str(bypass).lower(),)}


def require_no_lockout(call: Call, key: KMSKey, document: str) -> None:
    """Refuse a key policy that would keep the caller from changing it again, unless the request says it is meant.

    Raises:
        ServiceError: MalformedPolicyDocumentException.
    """
    if not call.judged or call.members.get("BypassPolicyLockoutSafetyCheck"):
        return
    again = call.question("PutKeyPolicy", key, facts={"kms:PolicyName": ("default",)})
    if not call.world.access.may_still(Policy.parse(document, of_key=True), again):
        raise key.error("MalformedPolicyDocumentException", _LOCKED_OUT)


def _get_key_policy(call: Call) -> Members:
    key = call.key()
    return {"Policy": key.policy, "PolicyName": _policy_name(call)}


def _list_key_policies(call: Call) -> Members:
    call.key()
    return page(call, ["default"], "PolicyNames", 100, 1000)


ATTRIBUTES: Mapping[str, Callable[[Call], Members | None]] = {
    "CreateAlias": _create_alias,
    "DeleteAlias": _delete_alias,
    "GetKeyPolicy": _get_key_policy,
    "ListAliases": _list_aliases,
    "ListKeyPolicies": _list_key_policies,
    "ListResourceTags": _list_resource_tags,
    "PutKeyPolicy": _put_key_policy,
    "TagResource": _tag_resource,
    "UntagResource": _untag_resource,
    "UpdateAlias": _update_alias,
}
