"""Templates and mappings in the configuration: what is read, what is refused, and what is built from it."""

from __future__ import annotations

import copy

import pytest
import yaml

import streamcrypt as sc
from streamcrypt.cli.compose import build_letter_provider, build_provider
from streamcrypt.cli.compose_reencrypt import build_reencryption
from streamcrypt.config import ConfigProblems, load
from streamcrypt.envelope.header import EncryptedDataKey
from streamcrypt.keys.tenants import DEFAULT_MAX_LIVE, DEFAULT_NEW_KEYS_PER_MINUTE
from tests.tenants import keyring

ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ENCRYPT = {"name": "protect", "mode": "encrypt", "from": "orders", "to": "orders.encrypted"}
TEMPLATE = "alias/tenant-{header:tenant}"


def tree(*, pipeline=None, local=False, **keys):
    """A configuration with a template; None as a value removes a setting."""
    base = {"key_id": TEMPLATE, "region": "eu-west-1", "mapping": {"acme": None}}
    if local:
        base |= {"provider": "local", "keyring": "keyring.json", "region": None, "key_id": "tenant-{header:tenant}"}
    given = {name: value for name, value in {**base, **keys}.items() if value is not None}
    return {
        "kafka": {"bootstrap.servers": "localhost:9092"},
        "keys": given,
        "pipelines": [{**ENCRYPT, **(pipeline or {})}],
    }


def loaded(directory, content):
    """Load a configuration without any environment."""
    path = directory / "streamcrypt.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return load(path, {})


def test_every_form_of_an_entry_is_read(tmp_path):
    """A name, a list, null for what the template names, and a section with earlier KEKs."""
    mapping = {
        "acme": "alias/a",
        "globex": ["alias/g", "alias/recovery"],
        "initech": None,
        "hooli": {"trusted_keys": [ARN]},
        "piper": {"key_id": "alias/p", "trusted_keys": ARN},
    }
    keys = loaded(tmp_path, tree(mapping=mapping)).keys
    assert keys.mapping == {
        "acme": sc.MappedKEK(("alias/a",)),
        "globex": sc.MappedKEK(("alias/g", "alias/recovery")),
        "initech": sc.MappedKEK(),
        "hooli": sc.MappedKEK((), (ARN,)),
        "piper": sc.MappedKEK(("alias/p",), (ARN,)),
    }
    assert keys.kek_names == (
        "alias/a",
        "alias/g",
        "alias/recovery",
        "alias/tenant-initech",
        "alias/tenant-hooli",
        "alias/p",
    )
    assert (keys.max_live, keys.new_keys_per_minute, keys.disabled) == (None, None, None)


def test_values_are_read_as_they_are_written(tmp_path):
    """What YAML takes for a boolean or a number elsewhere is a tenant's name here."""
    text = yaml.safe_dump(tree(mapping={"X": None}), sort_keys=False)
    written = "mapping: {no: alias/a, on: null, 007: alias/b}\n"
    keys = loaded(tmp_path, text.replace("mapping:\n    X: null\n", written)).keys
    assert list(keys.mapping or {}) == ["no", "on", "007"]


def test_a_configuration_without_a_template_names_its_keks(tmp_path):
    """The same question for both kinds."""
    keys = loaded(tmp_path, tree(key_id=["alias/a", "alias/b"], mapping=None)).keys
    assert keys.template is None
    assert keys.kek_names == ("alias/a", "alias/b")


@pytest.mark.parametrize(
    ("change", "path", "message", "remedy"),
    [
        ({"mapping": None}, "keys.mapping", "is missing", "refused"),
        ({"mapping": {}}, "keys.mapping", "needs one", "Map every value"),
        ({"mapping": ["acme"]}, "keys.mapping", "no section", "VALUE: KEK"),
        ({"mapping": {"acme": 7}}, "keys.mapping", "'acme' is mapped to no name", "VALUE: KEK"),
        ({"mapping": {"acme": []}}, "keys.mapping", "empty list", "VALUE: KEK"),
        ({"mapping": {"acme": {"kek": "alias/x"}}}, "keys.mapping", "something else", "trusted_keys"),
        ({"mapping": {"acme.x": None}}, "keys.mapping", "'acme.x' is no value", "1 to 64"),
        ({"mapping": {"acme/x": None}}, "keys.mapping", "'acme/x' is no value", "{header:tenant}"),
        ({"mapping": {"acme": "tenant-acme"}}, "keys.mapping", "not a KMS key name", "alias/NAME"),
        ({"mapping": {"acme": "alias/x-{key}"}}, "keys.mapping", "no name of a KEK", ""),
        ({"mapping": {"acme": {"trusted_keys": ["alias/old"]}}}, "keys.mapping", "not a key ARN", "Trust is"),
        ({"key_id": "alias/{tenant}"}, "keys.key_id", "{tenant} is no placeholder", "{header:NAME}"),
        ({"key_id": "tenant-{header:tenant}"}, "keys.mapping", "not a KMS key name", "alias/NAME"),
        ({"key_id": "alias/aws/{header:tenant}"}, "keys.mapping", "AWS managed", "customer managed"),
        ({"trusted_keys": [ARN]}, "keys.trusted_keys", "for every tenant", "mapping"),
        ({"key_id": "alias/x"}, "keys.mapping", "template only", "{header:tenant}"),
        ({"key_id": "alias/x", "mapping": None, "max_live": 5}, "keys.max_live", "template only", "Remove"),
        ({"key_id": "alias/x", "mapping": None, "disabled": "wait"}, "keys.disabled", "template only", "Remove"),
        ({"max_live": 0}, "keys.max_live", "below 1", ""),
        ({"new_keys_per_minute": "many"}, "keys.new_keys_per_minute", "whole number", ""),
        ({"disabled": "skip"}, "keys.disabled", "no choice", "fail"),
        ({"local": True, "mapping": {"acme": ["a", "b"]}}, "keys.mapping", "several KEKs", "one key id"),
        ({"local": True, "max_live": 7, "key_id": None, "mapping": None}, "keys.max_live", "template only", ""),
        (
            {"pipeline": {"mode": "decrypt", "trusted_keys": [ARN]}},
            "pipelines[0].trusted_keys",
            "every tenant",
            "mapping",
        ),
        (
            {"pipeline": {"mode": "reencrypt", "how": "rewrap", "trusted_keys": [ARN]}},
            "pipelines[0].trusted_keys",
            "every tenant",
            "mapping",
        ),
        (
            {"pipeline": {"on_failure": "dead_letter", "dead_letter": "dlq"}},
            "pipelines[0].dead_letter_key",
            "is missing",
            "all tenants",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_refused_by_name(tmp_path, change, path, message, remedy):
    """Each with its place, what is wrong and what to write."""
    with pytest.raises(ConfigProblems) as caught:
        loaded(tmp_path, tree(**copy.deepcopy(change)))
    found = [p for p in caught.value.problems if message in p.message and remedy in p.remedy]
    assert [p.path for p in found] == [path], caught.value.problems


def test_the_key_service_of_a_template_takes_its_limits_from_the_file(tmp_path):
    """Defaults where the file says nothing."""
    plain = build_provider(loaded(tmp_path, tree()).keys)
    assert isinstance(plain, sc.TenantKeys)
    numbers = (plain.max_live, plain.new_keys_per_minute, plain.disabled_fails)
    assert numbers == (DEFAULT_MAX_LIVE, DEFAULT_NEW_KEYS_PER_MINUTE, True)
    given = {"max_live": 7, "new_keys_per_minute": 8, "disabled": "wait"}
    chosen = build_provider(loaded(tmp_path, tree(**given)).keys)
    assert isinstance(chosen, sc.TenantKeys)
    assert (chosen.max_live, chosen.new_keys_per_minute, chosen.disabled_fails) == (7, 8, False)
    for provider in (plain, chosen):
        provider.close()


def test_dead_letters_have_a_kek_that_is_nobodys(tmp_path):
    """The one that the pipeline names, or the primary of a keyring."""
    keyring("acme").save(tmp_path / "keyring.json")
    letters = {"on_failure": "dead_letter", "dead_letter": "dlq"}
    settings = loaded(tmp_path, tree(local=True, pipeline=letters))
    provider = build_provider(settings.keys)
    own = build_letter_provider(settings, settings.pipelines[0], provider)
    assert [key.key_id for key in own.generate_data_key({"streamcrypt:topic": "dlq"}).encrypted] == ["main"]
    settings = loaded(tmp_path, tree(pipeline={**letters, "dead_letter_key": ARN}))
    with_key = build_letter_provider(settings, settings.pipelines[0], provider)
    assert with_key.trusted(()) == []
    assert "1234abcd" in repr(with_key)
    for service in (provider, own, with_key):
        service.close()


def test_sections_can_be_written_out_again(tmp_path):
    """For tools that show the settings in force."""
    keys = loaded(tmp_path, tree(mapping={"acme": None, "globex": "alias/g"})).keys
    assert keys.model_dump(mode="json")["mapping"] == {
        "acme": {"key_id": None, "trusted_keys": []},
        "globex": {"key_id": ["alias/g"], "trusted_keys": []},
    }
    assert type(keys).model_json_schema()["properties"]["mapping"]


def test_resealing_opens_what_was_sealed_before_there_was_a_template(tmp_path):
    """By the KEKs in the pipeline's own list, without asking whose records they are."""
    pipeline = {"mode": "reencrypt", "how": "reseal", "trusted_keys": [ARN]}
    settings = loaded(tmp_path, tree(pipeline=pipeline))
    provider = build_provider(settings.keys)
    transform = build_reencryption(settings, settings.pipelines[0], provider)
    source = transform._decryptor
    wrapped = EncryptedDataKey("aws-kms", ARN, b"x")
    assert [key_id for _, key_id in source._keys.trusted([wrapped])] == [ARN]
    assert source._tenants is None
    transform.close()
    provider.close()
