"""Methods of one kind, one module each, found by their file name and imported when asked for.

A package that holds interchangeable methods (``hallmark.poison``, ``hallmark.extraction.attacks``)
makes one :class:`Registry`.  Adding a method is adding a file: its name is the method's name, and
the module defines the names that the registry requires (say ``Params`` and ``attack``).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from hallmark.config import Params, parse
from hallmark.errors import UserError


class Registry:
    """The public modules of one package, by name.

    Args:
        package: dotted name of the package, e.g. ``"hallmark.poison"``.
        kind: what the modules are, in the words of an error message, e.g. ``"poison"``.
        requires: names that each module must define.
    """

    def __init__(self, package: str, kind: str, requires: tuple[str, ...]) -> None:
        self.package, self.kind, self.requires = package, kind, requires
        self._found: dict[str, ModuleType] = {}  # a mark's ways are asked for at every training step

    def names(self) -> list[str]:
        """Names of all methods, sorted, without importing any."""
        path = importlib.import_module(self.package).__path__
        return sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_"))

    def get(self, name: str) -> ModuleType:
        """The module ``name``.

        Raises:
            UserError: no such method; the message lists those there are.
        """
        if name in self._found:
            return self._found[name]
        if name not in self.names():
            raise UserError(f"unknown {self.kind} '{name}': choose one of {', '.join(self.names())}")
        module = importlib.import_module(f"{self.package}.{name}")
        missing = [attribute for attribute in self.requires if not hasattr(module, attribute)]
        if missing:
            raise TypeError(f"{module.__name__} must define {', '.join(missing)}")
        self._found[name] = module
        return module

    def parameters(self, name: str, blocks: Mapping[str, Any], where: str) -> Params:
        """The parameters of the method ``name``: its block, validated by its module's ``Params``.

        Args:
            blocks: the blocks of all methods by name, as the section of params.yaml holds them; a
                method without a block has its defaults.  The blocks of the others are validated as well.
            where: the section, for the message.

        Raises:
            UserError: a block is invalid, or bears the name of no method.
        """
        module = self.get(name)
        for block, value in blocks.items():
            if block not in self.names():
                raise UserError(f"{where}.{block}: unknown parameter; it is no {self.kind} ({', '.join(self.names())})")
            parse(self.get(block).Params, value, f"{where}.{block}")
        return parse(module.Params, blocks.get(name, {}), f"{where}.{name}")
