"""Jinja's immutable sandbox with bounds on time and on the size of everything a template makes.

Jinja's sandbox keeps a template from Python's internals, not from using up the machine: ``{{ 'a' * 10**10 }}`` or two
nested loops are enough. Here every operator, method and filter that makes text is charged to a budget before it runs,
with the size of what it will make. Time is looked at wherever a template can spend it: at every token, loop iteration,
call and charge. Behind that stands an exception raised in the rendering thread from outside, which alone would not do:
when it happens to arrive inside a callback of the garbage collector, Python reports and drops it.
"""

from __future__ import annotations

import ctypes
import functools
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, TypeVar

import jinja2
import jinja2.compiler
import jinja2.ext
import jinja2.filters
import jinja2.lexer
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

T = TypeVar("T")

SECONDS = 5.0
VALUE_SIZE = 8 * 2**20  # characters (or parts) of one value
TOTAL_SIZE = 256 * 2**20  # of all values of one rendering together
_PART_SIZE = 40  # a number, or an empty list: what counting it costs rather than what it writes
_INTEGER_BITS = 4096
_WIDTH = re.compile(r"\d{5,}|%[^%a-zA-Z]*\*|\{[^{}]*:[^{}]*\{")

# What chat templates use; the other filters of Jinja are HTML or multiply sizes.
_FILTERS = (
    *("abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "format"),
    *("forceescape", "groupby", "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max"),
    *("min", "reject", "rejectattr", "replace", "reverse", "safe", "select", "selectattr", "sort", "string", "sum"),
    *("title", "trim", "unique", "upper", "urlencode", "wordcount"),
)
# Those that write a value out, whatever it is.
_WRITING = frozenset(
    {
        "capitalize",
        "e",
        "escape",
        "float",
        "forceescape",
        "format",
        "indent",
        "int",
        "lower",
        "replace",
        "safe",
        "string",
    }
    | {"title", "trim", "upper", "urlencode", "wordcount"}
)
_PADDING = frozenset({"ljust", "rjust", "center", "zfill", "expandtabs"})


class TemplateProblem(Exception):
    """A template is wrong, gave up, or exceeded a bound; the text says which."""


class _Budget(threading.local):
    """What the rendering in this thread has made so far; every rendering has a fresh thread."""

    spent = 0
    deadline = float("inf")

    def tick(self) -> None:
        if time.monotonic() > self.deadline:
            raise _OutOfTime

    def charge(self, size: int) -> None:
        self.tick()
        if size > VALUE_SIZE:
            raise TemplateProblem(f"it makes a value of more than {VALUE_SIZE // 2**20} MiB")
        self.spent += size
        if self.spent > TOTAL_SIZE:
            raise TemplateProblem(f"it makes values of more than {TOTAL_SIZE // 2**20} MiB in all")


_BUDGET = _Budget()


class _OutOfTime(BaseException):
    """Raised inside the rendering thread; no `except` of a template's helper catches it."""


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks the assistant's text for training; for a prompt it is only a scope."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own declaration)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)

    def filter_stream(self, stream: jinja2.lexer.TokenStream) -> Iterator[jinja2.lexer.Token]:
        for token in stream:
            _BUDGET.tick()
            yield token


class _CodeGenerator(jinja2.compiler.CodeGenerator):
    """Sends ``~`` and slices through the environment, as other operators are, so that they can be charged."""

    _loop_body: Iterable[jinja2.nodes.Node] | None = None

    def write(self, x: str) -> None:
        _BUDGET.tick()
        super().write(x)

    def blockvisit(self, nodes: Iterable[jinja2.nodes.Node], frame: jinja2.compiler.Frame) -> None:
        if nodes is self._loop_body:
            self.writeline("environment.tick()")
        super().blockvisit(nodes, frame)

    def visit_For(self, node: jinja2.nodes.For, frame: jinja2.compiler.Frame) -> None:
        self._loop_body = node.body
        super().visit_For(node, frame)

    def visit_Concat(self, node: jinja2.nodes.Concat, frame: jinja2.compiler.Frame) -> None:
        self.write("environment.concatenate((")
        for argument in node.nodes:
            self.visit(argument, frame)
            self.write(", ")
        self.write("))")

    def visit_Getitem(self, node: jinja2.nodes.Getitem, frame: jinja2.compiler.Frame) -> None:
        if not isinstance(node.arg, jinja2.nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        self.write("environment.cut(")
        self.visit(node.node, frame)
        for bound in (node.arg.start, node.arg.stop, node.arg.step):
            self.write(", ")
            if bound is None:
                self.write("None")
            else:
                self.visit(bound, frame)
        self.write(")")


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
        own = {"replace": _replace, "join": _join(self.filters["join"]), "indent": _indent, "format": _format}
        self.filters = {name: _charged(own.get(name, self.filters[name]), name in _WRITING) for name in _FILTERS}
        for name in ("lipsum", "cycler", "joiner"):
            del self.globals[name]

    @staticmethod
    def tick() -> None:
        """Stops a rendering whose time is over; compiled templates call it."""
        _BUDGET.tick()

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Joins what a template puts out; Jinja calls it for the whole and for every captured block."""
        pieces = list(parts)
        _BUDGET.charge(sum(map(len, pieces)))
        return "".join(pieces)

    def concatenate(self, values: tuple[Any, ...]) -> str:
        """The operator ``~``."""
        return self.concat(str(checked(value)) for value in values)

    def cut(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """The operator ``[start:stop:step]``."""
        if isinstance(value, Sized):
            _BUDGET.charge(len(value))
        return value[start:stop:step]

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            _charge_product(left, right)
        elif operator == "**":
            _check_power(left, right)
        elif operator == "+" and isinstance(left, Sized) and isinstance(right, Sized):
            _BUDGET.charge(len(left) + len(right))
        elif operator == "%" and isinstance(left, str):
            _charge_format(left, "%", (right,))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _BUDGET.tick()
        # str.format arrives wrapped by Jinja's sandbox, with the method in __wrapped__.
        method = getattr(__obj, "__wrapped__", __obj)
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, (str, bytes)):
            args = _charge_method(owner, name, args, kwargs)
        elif isinstance(owner, int) and name == "to_bytes":
            raise TemplateProblem("it calls to_bytes")
        return super().call(__context, __obj, *args, **kwargs)

    def compile_bounded(self, source: str) -> BoundedTemplate:
        """Compiles a template, within the same bounds as a rendering: constants are computed then.

        Raises:
            TemplateProblem: it is not valid, or exceeded its time or size.
        """
        return BoundedTemplate(_bounded(lambda: self.from_string(source)))


class BoundedTemplate:
    """A compiled template whose rendering is bounded."""

    def __init__(self, template: jinja2.Template) -> None:
        self._template = template

    def render_bounded(self, values: Mapping[str, Any]) -> str:
        """The text the template makes of `values`.

        Raises:
            TemplateProblem: it raised an error, or exceeded its time or size.
        """
        return _bounded(lambda: self._template.render(values))


def _bounded(task: Callable[[], T]) -> T:
    """The result of `task`, run in a thread with a budget and a time limit of its own.

    Raises:
        TemplateProblem: it raised an error, or exceeded its time or size.
    """
    result: list[T] = []
    problem: list[BaseException] = []

    def work() -> None:
        _BUDGET.deadline = time.monotonic() + SECONDS
        try:
            result.append(task())
        except BaseException as error:  # handed over to the caller's thread
            problem.append(error)

    # A daemon, so that not even a call that never comes back to Python keeps the process alive.
    thread = threading.Thread(target=work, name="chat template", daemon=True)
    thread.start()
    thread.join(1.5 * SECONDS)
    for _ in range(10):
        if not thread.is_alive():
            break
        # again and again: one that arrives in a destructor or a callback of the garbage collector is lost
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_OutOfTime))
        thread.join(SECONDS / 10)
    if problem and not isinstance(problem[0], _OutOfTime):
        raise TemplateProblem(_describe(problem[0])) from problem[0]
    if not result:
        raise TemplateProblem(f"it took longer than {SECONDS:g} s")
    return result[0]


def _describe(error: BaseException) -> str:
    line = getattr(error, "lineno", None)
    text = str(error) or type(error).__name__
    return f"line {line}: {text}" if line else text


def checked(value: Any) -> Any:
    """`value`, charged with what writing it out takes: a list of lists can be exponentially larger than it looks."""
    if isinstance(value, (str, list, tuple, dict, set)):
        _BUDGET.charge(_written_size(value))
    return value


def _written_size(value: Any) -> int:
    """Parts and characters of a value; stops counting a little above what one value may have."""
    waiting, size = [value], 0
    while waiting and size <= VALUE_SIZE:
        item = waiting.pop()
        size += len(item) if isinstance(item, (str, bytes)) else _PART_SIZE
        if isinstance(item, dict):
            waiting.extend(item.keys())
            waiting.extend(item.values())
        elif isinstance(item, (list, tuple, set)):
            waiting.extend(item)
    return size


def _charge_product(left: Any, right: Any) -> None:
    for value, times in ((left, right), (right, left)):
        if isinstance(value, Sized) and isinstance(times, int):
            _BUDGET.charge(len(value) * max(times, 0))
    if isinstance(left, int) and isinstance(right, int):
        _check_integer(left.bit_length() + right.bit_length())


def _check_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_integer(left.bit_length() * max(right, 0))


def _check_integer(bits: int) -> None:
    if bits > _INTEGER_BITS:
        raise TemplateProblem(f"it makes a number of more than {_INTEGER_BITS} bits")


def _charge_format(text: str, mark: str, arguments: Sequence[Any]) -> None:
    """Charges ``text % arguments`` or ``text.format(*arguments)`` as if every field were the largest argument."""
    if _WIDTH.search(text):
        raise TemplateProblem("it formats with a width above 9999 or a variable one")
    _BUDGET.charge(len(text) + text.count(mark) * (10_000 + _written_size(list(arguments))))


def _charge_replace(text: Any, old: Any, new: Any) -> None:
    if all(isinstance(value, (str, bytes)) for value in (text, old, new)):
        _BUDGET.charge(len(text) + (text.count(old) if old else len(text) + 1) * len(new))


def _charge_join(items: list[Any], separator: Any) -> None:
    _BUDGET.charge(_written_size(items) + len(items) * len(separator))


def _charge_method(
    owner: str | bytes, name: str, arguments: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Charges a call of a text's method; returns its arguments, a generator for `join` as a list."""
    if name in ("format", "format_map"):
        _charge_format(str(owner), "{", [*arguments, *named.values()])
    elif name == "translate":
        raise TemplateProblem("it calls translate")
    elif name in _PADDING:
        widths = [argument for argument in (*arguments, *named.values()) if isinstance(argument, int)]
        _BUDGET.charge(len(owner) + max(widths, default=8) * (len(owner) if name == "expandtabs" else 1))
    elif name == "replace" and len(arguments) >= 2:
        _charge_replace(owner, arguments[0], arguments[1])
    elif name == "join" and len(arguments) == 1:
        items = list(arguments[0])
        _charge_join(items, owner)
        return (items,)
    else:
        _BUDGET.charge(len(owner))
    return arguments


def _charged(function: Callable[..., Any], writes: bool) -> Callable[..., Any]:
    """A filter that is charged with its value before it runs: with all that is in it, if it writes that out."""

    @functools.wraps(function)  # also copies the mark by which Jinja hands over its context first
    def charged(*args: Any, **kwargs: Any) -> Any:
        for value in args[:2]:
            if writes:
                checked(value)
            elif isinstance(value, (str, list, tuple, dict)):
                _BUDGET.charge(len(value))
        return function(*args, **kwargs)

    return charged


def _replace(text: Any, old: str, new: str, count: int | None = None) -> str:
    _charge_replace(str(text), old, new)
    return str(text).replace(old, new, -1 if count is None else count)


def _join(join: Callable[..., Any]) -> Callable[..., Any]:
    @jinja2.pass_eval_context
    def bounded(context: Any, value: Iterable[Any], separator: str = "", attribute: Any = None) -> Any:
        items = list(value)
        _charge_join(items, separator)
        return join(context, items, separator, attribute)

    return bounded


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> Any:
    size = width if isinstance(width, int) else len(width)
    _BUDGET.charge((str(text).count("\n") + 1) * size + len(text))
    return jinja2.filters.do_indent(text, width, first, blank)


def _format(value: str, *args: Any, **kwargs: Any) -> Any:
    _charge_format(str(value), "%", [*args, *kwargs.values()])
    return jinja2.filters.do_format(value, *args, **kwargs)
