"""Jinja's immutable sandbox with bounds on time and on the size of everything a template makes.

Jinja's sandbox keeps a template from Python's internals, not from using up the machine: ``{{ 'a' * 10**10 }}`` or two
nested loops are enough. Here every operator, method and filter that can multiply the size of a value is checked before
it runs, and the time is bounded by an exception raised in the rendering thread.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any

import jinja2
import jinja2.compiler
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 5.0
TEXT_BYTES = 8 * 2**20
TREE_NODES = 200_000
_INTEGER_BITS = 4096
_WIDTH = re.compile(r"\d{5,}|%[^%a-zA-Z]*\*|\{[^{}]*:[^{}]*\{")

# What chat templates use; the other filters of Jinja are HTML or multiply sizes.
_FILTERS = (
    *("abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "format"),
    *("forceescape", "groupby", "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max"),
    *("min", "reject", "rejectattr", "replace", "reverse", "safe", "select", "selectattr", "sort", "string", "sum"),
    *("title", "trim", "unique", "upper", "urlencode", "wordcount"),
)
_PADDING = frozenset({"ljust", "rjust", "center", "zfill", "expandtabs"})


class TemplateProblem(Exception):
    """A template is wrong, gave up, or exceeded a bound; the text says which."""


class _OutOfTime(BaseException):
    """Raised inside the rendering thread; no `except` of a template's helper catches it."""


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks the assistant's text for training; for a prompt it is only a scope."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class _CodeGenerator(jinja2.compiler.CodeGenerator):
    """Sends ``~`` through the environment, as other operators are, so that its result can be bounded."""

    def visit_Concat(self, node: jinja2.nodes.Concat, frame: jinja2.compiler.Frame) -> None:
        self.write("environment.concatenate((")
        for argument in node.nodes:
            self.visit(argument, frame)
            self.write(", ")
        self.write("))")


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """See the module."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})
    code_generator_class = _CodeGenerator

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, jinja2.ext.loopcontrols],
            finalize=checked,
        )
        self.filters = {name: self.filters[name] for name in _FILTERS}
        self.filters["replace"] = _replace
        self.filters["join"] = _bounded_join(self.filters["join"])
        self.filters["indent"] = _bounded_indent(self.filters["indent"])
        self.filters["format"] = _bounded_format(self.filters["format"])
        self.filters["string"] = _string
        for name in ("lipsum", "cycler", "joiner"):
            del self.globals[name]

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Joins what a template puts out; Jinja calls it for the whole and for every captured block."""
        pieces = list(parts)
        _check_size(sum(map(len, pieces)))
        return "".join(pieces)

    def concatenate(self, values: tuple[Any, ...]) -> str:
        """The operator ``~``."""
        return self.concat(str(checked(value)) for value in values)

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            _check_product(left, right)
        elif operator == "**":
            _check_power(left, right)
        elif operator == "+" and isinstance(left, Sized) and isinstance(right, Sized):
            _check_size(len(left) + len(right))
        elif operator == "%" and isinstance(left, str):
            _check_widths(left)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, (str, bytes)):
            _check_method(owner, name, args)
        elif isinstance(owner, int) and name == "to_bytes":
            raise TemplateProblem("it calls to_bytes")
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_widths(value.__self__)
        return wrapped

    def compile_bounded(self, source: str) -> BoundedTemplate:
        """Compiles a template.

        Raises:
            TemplateProblem: it is not valid.
        """
        try:
            return BoundedTemplate(self.from_string(source))
        except (jinja2.TemplateError, RecursionError, MemoryError, OverflowError) as error:
            raise TemplateProblem(_describe(error)) from error


class BoundedTemplate:
    """A compiled template whose rendering is bounded."""

    def __init__(self, template: jinja2.Template) -> None:
        self._template = template

    def render_bounded(self, values: Mapping[str, Any]) -> str:
        """The text the template makes of `values`.

        Raises:
            TemplateProblem: it raised an error, or exceeded its time or size.
        """
        result: list[str] = []
        problem: list[BaseException] = []

        def work() -> None:
            try:
                result.append(self._template.render(values))
            except BaseException as error:  # handed over to the caller's thread
                problem.append(error)

        # A daemon, so that not even a call that never comes back to Python keeps the process alive.
        thread = threading.Thread(target=work, name="chat template", daemon=True)
        thread.start()
        thread.join(SECONDS)
        if thread.is_alive():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_OutOfTime))
            thread.join(SECONDS)
        if problem and not isinstance(problem[0], _OutOfTime):
            raise TemplateProblem(_describe(problem[0])) from problem[0]
        if not result:
            raise TemplateProblem(f"it took longer than {SECONDS:g} s")
        return result[0]


def _describe(error: BaseException) -> str:
    line = getattr(error, "lineno", None)
    text = str(error) or type(error).__name__
    return f"line {line}: {text}" if line else text


def _check_size(size: int) -> None:
    if size > TEXT_BYTES:
        raise TemplateProblem(f"it makes a value of more than {TEXT_BYTES // 2**20} MiB")


def checked(value: Any) -> Any:
    """`value`, if writing it out stays within bounds; lists of lists can be exponentially larger than they look."""
    if isinstance(value, (list, tuple, dict, set)):
        waiting, seen = [value], 0
        while waiting:
            item = waiting.pop()
            seen += 1
            if seen > TREE_NODES:
                raise TemplateProblem(f"it writes out a value of more than {TREE_NODES} parts")
            if isinstance(item, dict):
                waiting.extend(item.values())
            elif isinstance(item, (list, tuple, set)):
                waiting.extend(item)
    return value


def _string(value: Any) -> str:
    return str(checked(value))


def _check_product(left: Any, right: Any) -> None:
    for value, times in ((left, right), (right, left)):
        if isinstance(value, Sized) and isinstance(times, int):
            _check_size(len(value) * max(times, 0))
    if isinstance(left, int) and isinstance(right, int):
        _check_integer(left.bit_length() + right.bit_length())


def _check_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_integer(left.bit_length() * max(right, 0))


def _check_integer(bits: int) -> None:
    if bits > _INTEGER_BITS:
        raise TemplateProblem(f"it makes a number of more than {_INTEGER_BITS} bits")


def _check_widths(text: str) -> None:
    if _WIDTH.search(text):
        raise TemplateProblem("it formats with a width above 9999 or a variable one")


def _check_method(owner: str | bytes, name: str, arguments: tuple[Any, ...]) -> None:
    if name in _PADDING:
        for argument in arguments:
            if isinstance(argument, int):
                _check_size(argument * (max(len(owner), 1) if name == "expandtabs" else 1))
    elif name == "replace" and len(arguments) >= 2:
        _check_replace(owner, arguments[0], arguments[1])
    elif name == "join" and arguments:
        _check_join(arguments[0], owner)


def _check_replace(text: Any, old: Any, new: Any) -> None:
    if all(isinstance(value, (str, bytes)) for value in (text, old, new)):
        _check_size(len(text) + (text.count(old) if old else len(text) + 1) * len(new))


def _check_join(items: Any, separator: Any) -> None:
    if isinstance(items, Sized):
        _check_size(len(items) * len(separator))


def _replace(text: Any, old: str, new: str, count: int | None = None) -> str:
    _check_replace(str(text), old, new)
    return str(text).replace(old, new, -1 if count is None else count)


def _bounded_join(join: Callable[..., Any]) -> Callable[..., Any]:
    @jinja2.pass_eval_context
    def bounded(context: Any, value: Iterable[Any], separator: str = "", attribute: Any = None) -> Any:
        items = list(value)
        _check_join(checked(items), separator)
        if attribute is None:
            _check_size(sum(len(str(item)) for item in items))
        return join(context, items, separator, attribute)

    return bounded


def _bounded_indent(indent: Callable[..., Any]) -> Callable[..., Any]:
    def bounded(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> Any:
        size = width if isinstance(width, int) else len(width)
        _check_size((str(text).count("\n") + 1) * size + len(text))
        return indent(text, width, first, blank)

    return bounded


def _bounded_format(format: Callable[..., Any]) -> Callable[..., Any]:
    def bounded(value: str, *args: Any, **kwargs: Any) -> Any:
        _check_widths(str(value))
        return format(value, *args, **kwargs)

    return bounded
