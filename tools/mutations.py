"""The small changes that `mutants.py` makes to a module, found and made on its syntax tree."""

from __future__ import annotations

import ast
import re
from pathlib import Path

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
}


class Changes(ast.NodeTransformer):
    """Counts the changes that a module offers, and makes one of them.

    It leaves alone what no test should depend on: docstrings, annotations, texts, logging, and numbers above 2, which
    are sizes and times far more often than rules.
    """

    def __init__(self, wanted: int | None = None) -> None:
        self.wanted, self.found = wanted, []
        self.depth = 0

    def offer(self, node: ast.AST, what: str, changed: ast.AST) -> ast.AST:
        self.found.append((node.lineno, what))
        return ast.copy_location(changed, node) if len(self.found) - 1 == self.wanted else node

    def _function(self, node: ast.AST) -> ast.AST:
        self.depth += 1
        node.body = [self.visit(one) for one in node.body]
        node.args.defaults = [self.visit(one) for one in node.args.defaults]
        node.args.kw_defaults = [one and self.visit(one) for one in node.args.kw_defaults]
        self.depth -= 1
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        node.body = self.visit(node.body)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None and self.depth:
            node.value = self.visit(node.value)
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return node  # only its message; the condition above decides whether it is reached

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        swapped = SWAPS.get(type(node.ops[0]))
        if len(node.ops) != 1 or swapped is None:
            return node
        return self.offer(
            node,
            f"{type(node.ops[0]).__name__} → {swapped.__name__}",
            ast.Compare(node.left, [swapped()], node.comparators),
        )

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        swapped = SWAPS[type(node.op)]
        return self.offer(node, f"{type(node.op).__name__} → {swapped.__name__}", ast.BoolOp(swapped(), node.values))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        return self.offer(node, "not x → x", node.operand) if isinstance(node.op, ast.Not) else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        swapped = SWAPS.get(type(node.op))
        texts = any(
            isinstance(side, ast.JoinedStr) or isinstance(getattr(side, "value", None), str)
            for side in (node.left, node.right)
        )
        if swapped is None or texts or not self.depth:
            return node
        return self.offer(
            node, f"{type(node.op).__name__} → {swapped.__name__}", ast.BinOp(node.left, swapped(), node.right)
        )

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if not self.depth:
            return node
        if isinstance(node.value, bool):
            return self.offer(node, f"{node.value} → {not node.value}", ast.Constant(not node.value))
        if isinstance(node.value, int) and 0 <= node.value <= 2:
            return self.offer(node, f"{node.value} → {node.value + 1}", ast.Constant(node.value + 1))
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        negated = ast.UnaryOp(ast.Not(), node.test)
        return self.offer(node, "if x → if not x", ast.If(ast.copy_location(negated, node), node.body, node.orelse))

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        return self.offer(node, "a if x else b → b if x else a", ast.IfExp(node.test, node.orelse, node.body))

    def visit_Return(self, node: ast.Return) -> ast.AST:
        self.generic_visit(node)
        if node.value is None or (isinstance(node.value, ast.Constant) and node.value.value is None):
            return node
        return self.offer(node, "return x → return None", ast.Return(ast.copy_location(ast.Constant(None), node)))

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if not isinstance(node.value, ast.Call):  # a docstring
            return node
        self.generic_visit(node)
        called = ast.unparse(node.value.func)
        if re.match(r"(_?log|logger|logging|warnings)\b", called) or not self.depth:
            return node
        return self.offer(node, f"{called}(…) left out", ast.Pass())

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if re.match(r"(_?log|logger|logging|warnings)\b", ast.unparse(node.func)):
            return node
        self.generic_visit(node)
        named = [keyword for keyword in node.keywords if keyword.arg is not None]
        if named and self.depth:
            kept = [keyword for keyword in node.keywords if keyword is not named[-1]]
            return self.offer(node, f"{named[-1].arg}=… left out", ast.Call(node.func, node.args, kept))
        return node


def changes_of(path: Path) -> list[tuple[int, str]]:
    """Return the line and description of every change that a file offers."""
    walker = Changes()
    walker.visit(ast.parse(path.read_text(encoding="utf-8")))
    return walker.found


def mutated(path: Path, number: int) -> str:
    """Return a file's text with one change; comments are lost."""
    tree = Changes(number).visit(ast.parse(path.read_text(encoding="utf-8")))
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"
