"""Requirements of plugins."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from autotl import head
from autotl.errors import PluginError
from autotl.space.requirements import missing_requirements


@pytest.mark.parametrize(
    ("requirement", "is_met"),
    [
        ("packaging", True),
        ("Packaging>=20", True),
        (f"packaging=={version('packaging')}", True),
        ("packaging<1", False),
        ("packaging>=20,!=" + version("packaging"), False),
        ("not-on-this-planet", False),
        ("not-on-this-planet; python_version < '3'", True),
        ("not-on-this-planet; python_version > '3'", False),
    ],
)
def test_missing_requirements_compares_versions(requirement: str, is_met: bool) -> None:
    plugin = head(requires=["pytest", requirement])(lambda features: 0)
    assert missing_requirements(plugin) == ([] if is_met else [requirement])


def test_an_invalid_requirement_is_reported() -> None:
    with pytest.raises(PluginError, match=r"head plugin 'odd' .*'\?\? 1'.*peft>=0\.10"):
        missing_requirements(head(name="odd", requires=["?? 1"])(lambda features: 0))
