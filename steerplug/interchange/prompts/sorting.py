"""Where the parts of someone's prompt go: into the teacher, or back to the prompt; and why."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from steerplug.errors import PresetError
from steerplug.files.yaml_file import printable
from steerplug.interchange.prompts.variables import Marked
from steerplug.preset import Preset
from steerplug.preset.from_prompt import FIT, Message, preset_from_messages

VARIABLE = "its text differs from request to request"
QUESTION = "the request's own question"
SAME_TURNS = "turns that are the same before every question"
INSTRUCTION = "the instruction, the same before every question"
PEOPLE = "said to people, not to a model"


class Part(NamedTuple):
    """A part of a file by the name it has there, and why it went where it went."""

    what: str
    why: str


def few(words: Sequence[str], most: int = 6) -> str:
    """Return the first of some words, and how many more there are."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return f"{', '.join(words[:most])}{more}"


@dataclass
class Sorting:
    """A prompt of another program on its way to a preset.

    Args:
        format: what the file is, such as "a Modelfile".
        source: what messages call the file.
    """

    format: str
    source: str
    description: str = ""
    license: str = ""
    is_json: bool = False
    messages: list[Message] = field(default_factory=list)
    checks: list[Mapping[str, Any]] = field(default_factory=list)
    taught: list[Part] = field(default_factory=list)
    stays: list[Part] = field(default_factory=list)

    def instruct(self, what: str, text: Marked, why: str) -> None:
        """Put the constant lines of a text into the instruction; the others stay."""
        if (constant := text.constant()).strip():
            self.messages.append({"role": "system", "content": constant})
            self.taught.append(Part(what, why))
        if text.variables:
            self.stay(f"lines of {what} with {text.named()}", VARIABLE)

    def stay(self, what: str, why: str) -> None:
        """Note that a part stays where it was."""
        self.stays.append(Part(what, why))

    def leave(
        self, data: Mapping[str, Any], stays: Mapping[str, str], taught: Iterable[str]
    ) -> None:
        """Note what of a file's keys stays, each for its reason, and those that nobody knows.

        Args:
            data: the file's values.
            stays: key -> why it stays.
            taught: the other keys that such a file has.
        """
        for key, why in stays.items():
            if data.get(key):
                self.stay(key, why)
        self.leave_unknown(data, {*stays, *taught})

    def leave_unknown(
        self, keys: Iterable[str], known: Collection[str], where: str = ""
    ) -> None:
        """Note the keys that steerplug knows nothing of; `where` says what they are keys of."""
        unknown = sorted(f"{where}{printable(key)}" for key in keys if key not in known)
        if unknown:
            self.stay(few(unknown), f"no part of {self.format} that steerplug knows")

    def reply_in_json(self, what: str) -> None:
        """Hold every reply to JSON, as the file asks."""
        self.is_json = True
        self.taught.append(Part(what, "every reply is held to JSON, and checked for it"))

    def converse(self, turns: Sequence[tuple[str, Marked]]) -> None:
        """Sort the messages of a chat template.

        System messages are instruction and answered questions are examples, where no variable is in
        them. A question at the end is the request's own; where nothing else instructs, its constant
        lines are the instruction.
        """
        last = turns[-1] if turns and turns[-1][0] == "user" else None
        said = list(turns[:-1] if last else turns)
        for role, text in said:
            if role == "system":
                self.instruct("the system message", text, INSTRUCTION)
        self._examples([turn for turn in said if turn[0] != "system"])
        if last and not self.messages:
            self.instruct("the prompt", last[1], INSTRUCTION)
        elif last:
            self.stay("the last user message", QUESTION)

    def _examples(self, turns: list[tuple[str, Marked]]) -> None:
        is_paired = [role for role, _ in turns] == ["user", "assistant"] * (len(turns) // 2)
        step = 2 if is_paired else 1  # what does not pair up is refused with the preset
        pairs = [turns[i : i + step] for i in range(0, len(turns), step)]
        constant = [pair for pair in pairs if not any(text.variables for _, text in pair)]
        self.messages += [
            {"role": role, "content": text.constant()} for pair in constant for role, text in pair
        ]
        if constant:
            self.taught.append(Part("its questions and answers", SAME_TURNS))
        if len(constant) < len(pairs):
            self.stay("turns with variables", VARIABLE)

    def preset(self, name: str, method: str) -> Preset:
        """Return the preset.

        Raises:
            PresetError: nothing in the file is the same before every question, or a part does not
                fit a preset; or the name or method is wrong.
        """
        if not self.messages:
            stays = ", ".join(part.what for part in self.stays[:6])
            raise PresetError(
                f"{self.source} is {self.format} without an instruction that a preset could "
                f"replace{f' (it has {stays})' if stays else ''}; give it an instruction on lines "
                "without variables."
            )
        fields: dict[str, Any] = {"description": self.description, "fit": {**FIT, "method": method}}
        if self.license:
            fields["license"] = self.license
        checks = [*self.checks]
        if self.is_json:
            fields["decoding"] = {"format": "json"}
            checks += [] if {"kind": "json"} in checks else [{"kind": "json"}]
        if checks:
            fields["checks"] = checks
        return preset_from_messages(self.messages, name, fields, self.source)
