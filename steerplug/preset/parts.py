"""The parts of a preset: teacher or contrast, fit, strength, decoding.

Contract: each part checks what it can know alone; `preset.Preset` checks what ties them together.
Every field has a description and examples: they are the editor's help and the errors' cure.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema

from steerplug.preset.checks import TEXT, Frozen
from steerplug.preset.methods import (
    AUTO,
    CHOICES,
    CONTRAST_ONLY,
    EITHER,
    SCALED,
    TEACHER_ONLY,
    MethodName,
    listed,
)
from steerplug.steering.terms import Phase


def _check_layers(layers: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(layers)) < len(layers):
        raise ValueError(f"names a block twice: {list(layers)}; keep each block once")
    return tuple(sorted(layers))


def _check_phases(phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    if len(set(phases)) < len(phases):
        raise ValueError(f"names a phase twice: {list(phases)}; keep each phase once")
    return phases


def not_empty(value: object) -> object:
    """Refuse a key that is there without a value."""
    if value is None:
        raise ValueError("is empty; fill it in or remove the key")
    return value


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class _OneOrMany:
    """Says in the JSON Schema that one text may stand for a list of one."""

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        many = handler(core)
        return {"anyOf": [many["items"], many]}


Instruction = Annotated[str, Field(min_length=1, max_length=32_000, pattern=r"\S"), TEXT]
Message = Annotated[str, Field(min_length=1, max_length=16_000, pattern=r"\S"), TEXT]
Prompt = Annotated[str, Field(min_length=1, max_length=4_000, pattern=r"\S"), TEXT]
Block = Annotated[int, Field(strict=True, ge=0, le=1023)]
Blocks = Annotated[
    tuple[Block, ...],
    Field(min_length=1, max_length=1024, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_check_layers),
]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
StrengthNumber = Annotated[Number, Field(ge=-100, le=100)]


class Example(Frozen):
    """One example turn: what a user says, and how the model should answer."""

    user: Message = Field(description="What the user says.", examples=["What is rain?"])
    assistant: Message = Field(description="The model's answer.", examples=["Falling water."])


class Teacher(Frozen):
    """The prompt that the preset replaces: an instruction, example turns, or both."""

    system: Instruction | None = Field(
        None, description="The system prompt.", examples=["Answer like a pirate."]
    )
    examples: tuple[Example, ...] = Field(
        (),
        max_length=64,
        description="Example turns, before the user's own message.",
        examples=[[{"user": "Hi", "assistant": "Ahoy, matey!"}]],
    )

    _no_null = field_validator("system", mode="before")(not_empty)

    @model_validator(mode="after")
    def _teaches_something(self) -> Self:
        if self.system is None and not self.examples:
            raise ValueError("says nothing; give it a `system` text or `examples`")
        return self


class Contrast(Frozen):
    """Texts with the trait, and their counterparts without it, pair by pair."""

    positive: Annotated[
        tuple[Prompt, ...],
        Field(min_length=1, max_length=1000),
        BeforeValidator(_one_or_many),
        _OneOrMany(),
    ] = Field(description="With the trait: a text, or a list.", examples=["Love"])
    negative: Annotated[
        tuple[Annotated[str, Field(max_length=4_000), TEXT], ...],
        Field(min_length=1, max_length=1000),
        BeforeValidator(_one_or_many),
        _OneOrMany(),
    ] = Field(description="Without it, one for each positive; may be ''.", examples=["Hate"])

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The (positive, negative) texts."""
        return tuple(zip(self.positive, self.negative, strict=True))

    @model_validator(mode="after")
    def _pairs_up(self) -> Self:
        if len(self.positive) != len(self.negative):
            raise ValueError(
                f"has {len(self.positive)} positive and {len(self.negative)} negative texts; "
                "give every positive text its negative one"
            )
        for i, (positive, negative) in enumerate(self.pairs):
            if positive == negative:
                raise ValueError(f"has equal texts in pair {i}; make them differ in the trait")
        return self


class Fit(Frozen):
    """How the preset becomes numbers for one model."""

    method: MethodName = Field(
        AUTO,
        description=f"{AUTO}: the best of {listed(CHOICES)} that model and machine allow; "
        f"{listed(TEACHER_ONLY, 'and')} distil a teacher; {listed(EITHER, 'and')} take "
        f"a teacher or a contrast; {listed(CONTRAST_ONLY)} takes a contrast of one pair.",
        examples=["mean"],
    )
    layers: Literal["auto"] | Blocks = Field(
        "auto",
        description="The blocks to steer, counted from 0, or auto.",
        examples=["auto", [10, 11, 12]],
    )
    coefficient: Literal["auto"] | Annotated[Number, Field(gt=0, le=1000)] = Field(
        "auto",
        description="What the fitted difference is multiplied by to make strength 1.0; only for "
        f"{listed(SCALED, 'and')}.",
        examples=["auto", 4.0],
    )
    prompts: (
        Literal["general"] | Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=1000)]
    ) = Field(
        "general",
        description="The user prompts to fit on: the ones that ship, or a list of your own.",
        examples=["general", ["How do boats float?"]],
    )
    seed: Annotated[int, Field(strict=True, ge=0, le=2**32 - 1)] = Field(
        0, description="Seed of everything random in the fit.", examples=[0]
    )

    @model_validator(mode="after")
    def _coefficient_has_a_use(self) -> Self:
        if self.coefficient != "auto" and self.method not in SCALED:
            raise ValueError(
                f"has a coefficient, which method `{self.method}` does not use; remove it, or use "
                f"{listed(SCALED)}"
            )
        return self


class Strength(Frozen):
    """How hard to push: the strength when none is said, and the range worth using."""

    default: StrengthNumber = Field(
        1.0,
        description="Used when none is said; left out, what `steerplug build` measures as best.",
        examples=[1.0],
    )
    min: StrengthNumber = Field(0.0, description="The low end of sweeps.", examples=[0.0])
    max: Annotated[StrengthNumber, Field(gt=0)] = Field(
        2.0, description="The high end; a mix may use -max to max.", examples=[2.0]
    )

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if not self.min <= self.default <= self.max:
            raise ValueError(
                f"has min {self.min:g}, default {self.default:g} and max {self.max:g}; "
                "they must be in rising order"
            )
        return self

    @property
    def stated(self) -> float | None:
        """The default that the preset itself says; None where a build may choose it."""
        return self.default if "default" in self.model_fields_set else None


Phases = Annotated[
    tuple[Phase, ...],
    Field(min_length=1, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_check_phases),
]
Thoughts = Annotated[
    tuple[Literal["thinking"], ...],
    Field(min_length=1, max_length=1),
]


class Decoding(Frozen):
    """A constraint on the reply, besides the steering, and what steering leaves out of it."""

    format: Literal["json"] | None = Field(
        None, description="The reply is JSON.", examples=["json"]
    )
    unsteered: Phases | None = Field(
        None,
        description="What steering leaves out of a reply: what is constrained to a format. "
        "Thinking and tool calls are left out by themselves.",
        examples=[["constrained"]],
    )
    steered: Thoughts | None = Field(
        None,
        description="What steering acts on though it would leave it out: thinking.",
        examples=[["thinking"]],
    )

    _no_null = field_validator("format", "unsteered", "steered", mode="before")(not_empty)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.format is None and self.unsteered is None and self.steered is None:
            raise ValueError("says nothing; give it a `format`, `unsteered` or `steered`")
        if both := set(self.unsteered or ()) & set(self.steered or ()):
            raise ValueError(f"has {both.pop()} as `unsteered` and as `steered`; keep one of them")
        return self
