"""What a mutant is: one change of a module's syntax tree, and where in the module it is.

A comparison, an arithmetic or boolean operator, a number, a bound of a slice, a condition, a return value, a dropped
statement, swapped or dropped arguments. Not changed are texts, error messages, annotations, decorators and the ranges
that tuning searches.
"""

import ast
from collections.abc import Iterator

COMPARED = {
    ast.Lt: [ast.LtE, ast.GtE], ast.LtE: [ast.Lt, ast.Gt], ast.Gt: [ast.GtE, ast.LtE], ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.In: [ast.NotIn], ast.NotIn: [ast.In], ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
}  # fmt: skip
CALCULATED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
CALLED = {
    name: other
    for pair in ("min max", "argmin argmax", "sum mean", "all any", "ceil floor", "square abs", "amin amax")
    for name, other in (pair.split(), pair.split()[::-1])
}
TEXTS = (ast.JoinedStr, ast.List, ast.Tuple, ast.Dict, ast.Set)


def line_of(node: ast.AST) -> int:
    """Return the line of a node; a comprehension has none of its own."""
    return getattr(node, "lineno", None) or node.target.lineno


def first_line(function: ast.FunctionDef) -> int:
    """Return the line at which a function's code begins: that of its first decorator."""
    return min(part.lineno for part in (function, *function.decorator_list))


def around(tree: ast.Module, line: int) -> list[ast.AST]:
    """Return the classes and functions around a line, from the outermost to the innermost."""
    found = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    return sorted((n for n in found if n.lineno <= line <= n.end_lineno), key=lambda n: n.lineno)


def function_of(tree: ast.Module, line: int) -> int | None:
    """Return the first line of the innermost function around a line; None outside of functions."""
    functions = [n for n in around(tree, line) if isinstance(n, ast.FunctionDef)]
    return first_line(functions[-1]) if functions else None


def outermost(tree: ast.Module, line: int) -> tuple:
    """Return the names of classes and the function that lead to a line of code, and the function's first line.

    Nothing where the line is outside of functions, or holds default values.
    """
    names: list = []
    for node in around(tree, line):
        names.append(node.name)
        if isinstance(node, ast.FunctionDef):
            return (*names, first_line(node)) if line >= node.body[0].lineno else ()
    return ()


def mutations(tree: ast.Module) -> Iterator[tuple[ast.AST, str, str, str, callable]]:
    """Yield every mutant of a module: node, operator, text before and after, and what makes the change."""
    for node, put in places(tree):
        for operator, other in replacements(node):
            ast.fix_missing_locations(ast.copy_location(other, node))
            before, after = (" ".join(ast.unparse(part).split()) for part in (node, other))
            if before != after:  # two equal arguments may be swapped
                yield node, operator, before[:120], after[:120], lambda put=put, other=other: put(other)


def places(node: ast.AST) -> Iterator[tuple[ast.AST, callable]]:
    """Yield the nodes that may be changed, each with a function that puts another in its place."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "targets", "target", "op", "ops", "ctx"):
            continue
        for position, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or left_alone(child):
                continue

            def put(other: ast.AST, name=name, value=value, position=position) -> None:
                if position is None:
                    setattr(node, name, other)
                else:
                    value[position] = other

            yield child, put
            if not isinstance(child, ast.Raise):  # the words of an error are not looked at
                yield from places(child)


def left_alone(node: ast.AST) -> bool:
    """Tell whether nothing in this node is changed."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # docstring
        return True
    names = [ast.unparse(t) for t in getattr(node, "targets", [getattr(node, "target", None)]) if t is not None]
    return isinstance(node, ast.Assign | ast.AnnAssign) and names[0] in ("search", "__all__")


def replacements(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield what a node may be replaced by, with the operator's name."""
    match node:
        case ast.Compare(left, ops, comparators):
            for at, op in enumerate(ops):
                for other in COMPARED[type(op)]:
                    yield "comparison", ast.Compare(left, [*ops[:at], other(), *ops[at + 1 :]], comparators)
        case ast.BinOp(left, op, right) if type(op) in CALCULATED:
            if not any(isinstance(s, TEXTS) or isinstance(getattr(s, "value", 0), str) for s in (left, right)):
                yield "arithmetic", ast.BinOp(left, CALCULATED[type(op)](), right)
        case ast.AugAssign(target, op, value):
            if type(op) in CALCULATED:
                yield "arithmetic", ast.AugAssign(target, CALCULATED[type(op)](), value)
            yield "statement", ast.Pass()
        case ast.BoolOp(op, values):
            yield "boolean", ast.BoolOp(ast.And() if isinstance(op, ast.Or) else ast.Or(), values)
        case ast.UnaryOp(_, operand):
            yield "unary", operand
        case ast.Constant(bool() as value):
            yield "constant", ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield "constant", ast.Constant(value + 1)
            if isinstance(value, int):
                yield "constant", ast.Constant(value - 1)
        case ast.IfExp(test, body, orelse):
            yield "condition", ast.IfExp(test, orelse, body)
        case ast.If(test, body, orelse):
            yield "condition", ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.comprehension(target, source, ifs, is_async) if ifs:
            yield "condition", ast.comprehension(target, source, ifs[:-1], is_async)
        case ast.Slice(lower, upper, step):
            if lower:
                yield "slice", ast.Slice(None, upper, step)
            if upper:
                yield "slice", ast.Slice(lower, None, step)
        case ast.Return(value) if value and not (isinstance(value, ast.Constant) and value.value is None):
            yield "return", ast.Return(ast.Constant(None))
        case ast.Raise() | ast.Continue() | ast.Break():
            yield "statement", ast.Pass()
        case ast.Expr(ast.Call()):
            yield "statement", ast.Pass()
        case ast.Call(function, arguments, keywords):
            yield from other_calls(function, arguments, keywords)


def other_calls(function: ast.AST, arguments: list, keywords: list) -> Iterator[tuple[str, ast.Call]]:
    """Yield a call with another function, swapped arguments or one keyword less."""
    name = getattr(function, "attr", getattr(function, "id", ""))
    if name in CALLED:
        if isinstance(function, ast.Attribute):
            yield "function", ast.Call(ast.Attribute(function.value, CALLED[name], ast.Load()), arguments, keywords)
        elif name in ("min", "max", "all", "any"):
            yield "function", ast.Call(ast.Name(CALLED[name], ast.Load()), arguments, keywords)
    if name in ("isinstance", "getattr", "print"):
        return
    if len(arguments) > 1 and not any(isinstance(a, ast.Starred) for a in arguments[:2]):
        yield "arguments", ast.Call(function, [arguments[1], arguments[0], *arguments[2:]], keywords)
    for at, keyword in enumerate(keywords):
        if keyword.arg and keyword.arg != "strict":
            yield "arguments", ast.Call(function, arguments, [*keywords[:at], *keywords[at + 1 :]])
