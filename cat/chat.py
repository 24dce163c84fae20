"""Chat templates: a prompt and its answer as the text that a checkpoint was tuned on.

A template is a Jinja program that came with a checkpoint, so it runs in Jinja's sandbox: it
reaches no attribute of Python and changes nothing. The sandbox does not bound its time.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cat.framing import NEWLINE, Encode, behind
from routers.errors import InputError

FILE = "chat_template.jinja"
MARK = "\ufdd0"
"""Around a special token's name that a text spells: a code point that no text may hold."""
PROBE = "Hi"
"""A prompt that stands for every prompt."""
_ANSWER = "\ufdd1"
_TODAY = datetime.date(2024, 7, 26)


@dataclasses.dataclass(frozen=True)
class Chat:
    """A checkpoint's template, and what it writes around an answer.

    ``response`` is ``lead``, the answer, ``trail`` and ``end``; the template's text after
    ``end`` belongs to no turn. Special tokens that a prompt or an answer spells come out
    between two ``MARK``, so that they can be encoded as the text they are.

    Args:
        source: the template.
        variables: what it may name, e.g. ``bos_token``.
        specials: the special tokens' ids by their names.
        where: what to call the template in errors.

    >>> source = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}<end>{% endfor %}"
    >>> source += "{% if add_generation_prompt %}[assistant]{% endif %}"
    >>> chat = Chat(source, {}, {"<end>": 7})
    >>> chat.prompt("2 + 2 ?"), chat.response("2 + 2 ?", " 4")
    ('[user]2 + 2 ?<end>[assistant]', '4<end>')
    """

    source: str
    variables: Mapping[str, str]
    specials: Mapping[str, int]
    where: str = "chat template"

    def prompt(self, text: str) -> str:
        """The one-message conversation up to where the answer starts."""
        return self._render(text)

    def response(self, prompt: str, target: str) -> str:
        """What the template writes from there to the end of the answer's turn.

        It is the same for every prompt.
        """
        kept = self._rest(target).removesuffix(self._turn[3])
        if not kept.endswith(self.end):
            raise InputError(f"{self.where}: does not end the turn of the answer {target[:60]!r}")
        return kept

    def anchor(self, prompt: str) -> str:
        """Text that stands for what comes before a response."""
        return self._before

    def answer(self, prompt: str, response: str) -> str:
        """The target in a decoded response, whose ``end`` is left out."""
        return response.removeprefix(self.lead).removesuffix(self.trail)

    @property
    def rendered(self) -> str:
        """A whole conversation, for the special tokens in it."""
        return self._before + self.response(PROBE, PROBE)

    @property
    def lead(self) -> str:
        """Between the prompt and the answer, e.g. an empty block of thoughts."""
        return self._turn[0]

    @property
    def trail(self) -> str:
        """Between the answer and ``end``."""
        return self._turn[1]

    @property
    def end(self) -> str:
        """The special token that ends an answer's turn."""
        return self._turn[2]

    @functools.cached_property
    def _turn(self) -> tuple[str, str, str, str]:
        """Lead, trail, end and what follows, by the answer of one character."""
        lead, found, tail = self._rest(_ANSWER).partition(_ANSWER)
        end = self._special.search(tail)
        if not found or end is None:
            raise InputError(
                f"{self.where}: writes no special token after an answer, so that nothing would "
                f"end a response; correct the template, or remove it to train on plain text"
            )
        return lead, tail[: end.start()], end[0], tail[end.end() :]

    @functools.cached_property
    def _before(self) -> str:
        """What comes before any response."""
        return self._render(PROBE)

    def _rest(self, answer: str) -> str:
        """What the template adds when the answer is there."""
        before, whole = self._before, self._render(PROBE, answer)
        if not whole.startswith(before):
            raise InputError(
                f"{self.where}: a conversation with its answer does not start with the prompt "
                f"({before[-40:]!r} at its end), so a model could not be trained to continue it; "
                "correct the template, or remove it to train on plain text"
            )
        return whole[len(before) :]

    def _render(self, prompt: str, answer: str | None = None) -> str:
        messages = [{"role": "user", "content": self._guarded(prompt)}]
        if answer is not None:
            messages.append({"role": "assistant", "content": self._guarded(answer)})
        asked = answer is None
        try:
            return self._template.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=asked,
                **self.variables,
            )
        except Exception as error:  # a program from elsewhere may raise anything
            raise InputError(f"{self.where}: cannot be rendered ({_line(error)})") from None

    def _guarded(self, text: str) -> str:
        if MARK in text:
            raise InputError(f"text {text[:60]!r} holds U+FDD0, which is no character; remove it")
        return self._special.sub(lambda found: f"{MARK}{found[0]}{MARK}", text)

    @functools.cached_property
    def _special(self) -> re.Pattern[str]:
        return _any_of(self.specials)

    @functools.cached_property
    def _template(self) -> Any:
        return _compiled(self.source, self.where)


def find(folder: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """The template of a checkpoint: ``chat_template.jinja``, else that of the configuration.

    Raises:
        InputError: several templates, none of which is named ``default``.
    """
    path = folder / FILE
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{path}: not text in UTF-8; download it again") from None
    given = tokenizer_config.get("chat_template")
    if given is None or isinstance(given, str):
        return given
    named = {one.get("name"): one.get("template") for one in given if isinstance(one, dict)}
    if "default" not in named:
        raise InputError(
            f"{folder}: has the chat templates {', '.join(map(str, named))}, but none named "
            f"default; write the one to use to {FILE}"
        )
    return str(named["default"])


def encode(
    texts: Sequence[str], plain: Encode, special: Encode, specials: Mapping[str, int]
) -> list[list[int]]:
    """Ids of what a template writes: its special tokens are special, those of a user text.

    Without such a name in the user's text, ids are those of the whole text. With one, what is
    before, in and after it is encoded apart, as ``transformers`` does not: there the user's text
    can end its own turn.

    Args:
        texts: from ``Chat.prompt`` and ``Chat.response``.
        plain: encodes special tokens' names as text.
        special: encodes them as special tokens.
        specials: their ids.

    Raises:
        InputError: a special token came out that no text names.
    """
    parts = [text.split(MARK) for text in texts]  # a user's special tokens are at odd places
    rows = special([part[0] for part in parts])
    names, ids = _any_of(specials), frozenset(specials.values())
    for row, part in zip(rows, parts, strict=True):
        for i, text in enumerate(part[1:], 1):
            row += behind([NEWLINE], [text], plain if i % 2 else special)[0]
        if sum(i in ids for i in row) > sum(len(names.findall(text)) for text in part[::2]):
            raise InputError(
                f"text {''.join(part)[-80:]!r} becomes a special token once the tokenizer has "
                "normalised it; change the text"
            )
    return rows


def _any_of(specials: Iterable[str]) -> re.Pattern[str]:
    """Finds any special token, the longest that fits."""
    names = sorted(filter(None, specials), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)) or r"(?!)")


def _compiled(source: str, where: str) -> Any:
    """The template in the environment that transformers gives it, but for the date.

    ``strftime_now`` tells a fixed day (our choice: Llama 3's default), so that the same text is
    the same tokens tomorrow.
    """
    try:
        import jinja2
        from jinja2 import nodes
        from jinja2.ext import Extension
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise InputError(f"{where}: needs jinja2; install it with: pip install jinja2") from None

    class Generation(Extension):
        """``{% generation %}``, which marks the answer and prints its body."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _TODAY.strftime
    try:
        tree = environment.parse(source)
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"{where}: not valid Jinja (line {error.lineno}: {error})") from None
    # The sandbox hides these; a template that reaches for them is not one to run.
    inner = [n.attr for n in tree.find_all((nodes.Getattr, nodes.NSRef)) if n.attr[:1] == "_"]
    if inner:
        raise InputError(f"{where}: reaches for {inner[0]}, which no template needs; not rendered")
    return environment.from_string(source)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON that leaves < > & and other letters as they are, unlike Jinja's own filter."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> None:
    raise ValueError(message)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
