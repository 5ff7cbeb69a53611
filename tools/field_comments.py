"""Read the comments that explain the fields of a class or the constants of a module."""

import ast
import inspect
import io
import textwrap
import tokenize
from types import ModuleType


def field_comments(owner: type | ModuleType) -> dict[str, str]:
    """Return the comment of each field of a class, or of each constant of a module, by name.

    A comment is on the lines of the assignment, or on comment lines right above it. Without one, the text is empty.
    """
    source = textwrap.dedent(inspect.getsource(owner))
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    comments = {token.start[0]: token.string.strip("# ") for token in tokens if token.type == tokenize.COMMENT}
    code_lines = {token.start[0] for token in tokens if token.string.strip() and token.type != tokenize.COMMENT}
    body = ast.parse(source).body
    if isinstance(owner, type) and isinstance(body[0], ast.ClassDef):
        body = body[0].body
    found = {}
    for node in body:
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        if isinstance(target, ast.Name):
            first, last = node.lineno, node.end_lineno or node.lineno
            while first - 1 in comments and first - 1 not in code_lines:
                first -= 1
            found[target.id] = " ".join(comments[line] for line in range(first, last + 1) if line in comments)
    return found
