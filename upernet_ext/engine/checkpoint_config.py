"""The config that travels in a checkpoint, read as data."""

import ast
from collections.abc import Mapping

from mmengine.config import Config

from ..config import ConfigError


def checkpoint_config(checkpoint: Mapping, source: str) -> Config:
    """Read the config that a run stored in its checkpoint.

    mmengine stores it as Python text, and ``Config.fromstring`` would execute
    it. A stored config consists of literals and ``dict(...)``; nothing else
    is accepted.

    Args:
        checkpoint: From ``interop.read_checkpoint``.
        source: Where it comes from, for messages.

    Raises:
        ConfigError: There is none, or it is more than data.
    """
    text = checkpoint.get('meta', {}).get('cfg')
    if not isinstance(text, str):
        raise ConfigError(
            f'{source} has no config in it; give the config file as well'
        )
    values = {}
    try:
        for node in ast.parse(text).body:
            if not isinstance(node, ast.Assign):
                raise ValueError(f'line {node.lineno} is no assignment')
            value = _Literals().visit(node.value)
            values[node.targets[0].id] = ast.literal_eval(value)
    except (ValueError, SyntaxError, AttributeError) as error:
        raise ConfigError(
            f'the config in {source} is more than data, and is not executed '
            f'({error}); give the config file as well'
        ) from error
    return Config(values)


class _Literals(ast.NodeTransformer):
    """Write ``dict(a=1)`` as ``{'a': 1}``, and ``inf`` as a number."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if not (isinstance(node.func, ast.Name) and node.func.id == 'dict'):
            raise ValueError(f'line {node.lineno} calls a function')
        if node.args and not node.keywords:
            # dict({'a-b': 1}): mmengine's form of keys that are no names.
            return self.visit(node.args[0])
        keys = [ast.Constant(keyword.arg) for keyword in node.keywords]
        values = [self.visit(keyword.value) for keyword in node.keywords]
        return ast.Dict(keys, values)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in ('inf', 'nan'):
            return ast.Constant(float(node.id))
        return node
