"""What a user may import, and what importing it costs."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import streamcrypt
from streamcrypt import errors

HEAVY = ("boto3", "botocore", "confluent_kafka", "typer", "pydantic", "yaml", "structlog", "prometheus_client")
LATE = {"AWSKMSKeyProvider", "DecryptingConsumer", "EncryptingProducer", "failure_of"}


def python(script: str) -> str:
    """Run a script in a fresh interpreter; give what it printed."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_the_list_of_names_is_sorted_and_without_repetition() -> None:
    """In the order of ASCII, as the tools sort it."""
    assert streamcrypt.__all__ == sorted(set(streamcrypt.__all__))


def test_every_name_is_reachable_and_documented() -> None:
    """The lazy ones included, each with a docstring of its own."""
    for name in streamcrypt.__all__:
        value = getattr(streamcrypt, name)
        assert inspect.getdoc(value), name
        assert value.__name__ == name


def test_nothing_else_is_public() -> None:
    """What is imported at the top is in the list; modules and underscored names aside."""
    found = {
        name
        for name, value in vars(streamcrypt).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name not in {"annotations", "TYPE_CHECKING"}
    }
    assert found - {"Any"} <= set(streamcrypt.__all__)
    assert dir(streamcrypt) == streamcrypt.__all__


def test_every_error_is_public() -> None:
    """Callers catch by type, so they need each of them."""
    tree = {name for name in errors.__all__ if name != "again"}
    assert tree <= set(streamcrypt.__all__)
    for name in tree:
        assert getattr(streamcrypt, name) is getattr(errors, name)


def test_a_star_import_gives_the_list() -> None:
    """Lazy names included."""
    script = "from streamcrypt import *; print(sorted(n for n in dir() if not n.startswith('_')))"
    assert python(script) == repr(streamcrypt.__all__)


def test_importing_loads_the_core_alone() -> None:
    """No SDK, no Kafka client, no web or command-line library, no test kit."""
    script = f"""
import sys, streamcrypt
streamcrypt.Encryptor, streamcrypt.Decryptor, streamcrypt.LocalKeyProvider
print([n for n in {HEAVY!r} if n in sys.modules], [n for n in sys.modules if n.startswith("streamcrypt.testing")])
"""
    assert python(script) == "[] []"


def test_sealing_and_opening_load_nothing_heavy_either() -> None:
    """With a local key."""
    script = f"""
import sys, streamcrypt as sc
keys = sc.LocalKeyProvider.generate()
value, headers = sc.Encryptor(keys).encrypt("t", b"v")
assert sc.Decryptor(keys).decrypt("t", value, None, headers) == (b"v", [])
print([n for n in {HEAVY!r} if n in sys.modules])
"""
    assert python(script) == "[]"


@pytest.mark.parametrize("name", sorted(LATE))
def test_a_lazy_name_is_found_once_and_kept(name: str) -> None:
    """The second look costs no import."""
    assert getattr(streamcrypt, name) is vars(streamcrypt)[name]


@pytest.mark.parametrize("name", sorted(LATE))
def test_a_lazy_name_whose_library_is_missing_says_what_to_install(name: str) -> None:
    """By extra, as pip takes it."""
    library, extra = ("boto3", "aws") if name == "AWSKMSKeyProvider" else ("confluent_kafka", "kafka")
    script = f"""
import sys
sys.modules["boto3"] = sys.modules["botocore"] = sys.modules["confluent_kafka"] = None
import streamcrypt
try:
    streamcrypt.{name}
    print("no import of the library yet")
except ImportError as error:
    print(error)
"""
    said = python(script)
    if name == "AWSKMSKeyProvider" and said.startswith("no import"):
        return  # it asks for boto3 when a provider is made
    assert said.startswith(f"{name} needs {library}")
    assert said.endswith(f"pip install 'streamcrypt[{extra}]'")


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    """So that hasattr and getattr with a default work."""
    assert not hasattr(streamcrypt, "Encrypter")
    with pytest.raises(ImportError):
        from streamcrypt import Encrypter  # noqa: F401
    with pytest.raises(AttributeError, match="no attribute 'x'"):
        _ = streamcrypt.x


def test_type_checkers_see_the_lazy_names() -> None:
    """They are imported under TYPE_CHECKING, and only they."""
    tree = ast.parse(Path(streamcrypt.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(streamcrypt.__all__) == set(streamcrypt._MODULES)
    assert set(streamcrypt._EXTRAS) == LATE
    assert (Path(streamcrypt.__file__).parent / "py.typed").exists()


def test_errors_and_events_are_attributes_after_a_bare_import() -> None:
    """``except streamcrypt.errors.KeyRefused`` works without a further import."""
    script = "import streamcrypt as sc; print(sc.errors.KeyRefused.__name__, sc.events.DataKeyMinted.__name__)"
    assert python(script) == "KeyRefused DataKeyMinted"
