"""Commands that are imported when they are called: `tinyvit store info` is `info` in commands/store/info.py.

So a command imports what it needs at the head of its file, and nothing that only others need. Lists of commands are
made of the docstrings, which are read without running the files.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from tinyvit.data.fork_server import start_fork_server


class CommandFolder(TyperGroup):
    """The commands of a package: a module each, or a package each with more of them."""

    package: str

    @property
    def files(self) -> Mapping[str, Path]:
        """Where each command is."""
        folder = Path(import_module(self.package).__path__[0])
        return dict(sorted(_commands_in(folder)))

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands."""
        return list(self.files)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command as a list shows it: with its first words, and not imported."""
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        path = self.files.get(cmd_name)
        if path is None:
            return None
        if path.is_dir():
            return folder_of(f"{self.package}.{path.name}", cmd_name)
        return TyperCommand(cmd_name, help=_docstring(path))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is called, imported."""
        if path := self.files.get(args[0]):
            if path.is_file() and _wants_processes(path, args[1:]):
                start_fork_server()
            self.commands[args[0]] = self.load(args[0])
        return super().resolve_command(ctx, args)

    def load(self, name: str) -> Any:
        """A command, imported."""
        path = self.files[name]
        if path.is_dir():
            return folder_of(f"{self.package}.{path.name}", name)
        module = import_module(f"{self.package}.{path.stem}")
        app = typer.Typer(add_completion=False)
        app.command(name)(getattr(module, path.stem))
        return typer.main.get_command(app)


def folder_of(package: str, name: str) -> CommandFolder:
    """The commands of a package, which its docstring describes."""
    group = CommandFolder(name=name, help=import_module(package).__doc__, no_args_is_help=True)
    group.package = package
    return group


def _commands_in(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.iterdir():
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").is_file():
            # A file whose name Python keeps for itself ends with a line.
            yield path.stem.rstrip("_"), path


def _docstring(path: Path) -> str | None:
    function = _function(path)
    return ast.get_docstring(function) if function else None


def _wants_processes(path: Path, args: list[str]) -> bool:
    """Whether a command that is called like this will start data processes."""
    function = _function(path)
    if function is None or "workers" not in {argument.arg for argument in function.args.args}:
        return False
    none = "--workers=0" in args or ("--workers", "0") in pairwise(args)
    return not none and "--help" not in args


def _function(path: Path) -> ast.FunctionDef | None:
    """What a command runs."""
    nodes = ast.parse(path.read_text()).body
    return next((node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == path.stem), None)
