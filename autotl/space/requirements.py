"""The distributions that a plugin requires, and which of them are not installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.requirements import InvalidRequirement, Requirement

from autotl.errors import PluginError
from autotl.space.plugin import AnyPlugin


def missing_requirements(plugin: AnyPlugin) -> list[str]:
    """List the requirements of ``plugin`` that no installed distribution satisfies.

    Raises:
        PluginError: A requirement is not a valid requirement specifier.
    """
    missing = []
    for text in plugin.requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            raise PluginError(
                f"{plugin.kind} plugin {plugin.name!r} from {plugin.origin} requires {text!r}, "
                "which is not a valid requirement; write a list such as ['peft>=0.10']"
            ) from None
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            missing.append(text)
        else:
            if not requirement.specifier.contains(installed, prereleases=True):
                missing.append(text)
    return missing
