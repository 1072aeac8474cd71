"""The methods by which a preset becomes numbers: what each is made from, and what it needs.

The one place that says so; schema, checks, builds and messages derive from it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

MethodName = Literal["auto", "psr", "const", "chain", "mean", "pca", "actadd"]
AUTO: MethodName = "auto"
CHOICES: tuple[MethodName, ...] = ("psr", "chain")
"""What `auto` stands for: the first of these that model and machine allow."""


@dataclass(frozen=True)
class Method:
    """One method.

    Args:
        version: of the fitting code; raise it when the same preset would give other numbers by
            it, beyond rounding. (Rounding alone draws other replies of the teacher, as another
            processor does.)
        n_questions: how many questions a teacher is asked; 0 where there is none.
        n_quick: how many of them a quick fit asks; 0 where there is nothing to shorten.
        takes_contrast: whether a contrast can be its source.
        needs_torch: whether it trains by gradients.
        scales: whether its difference is multiplied by a coefficient.
        is_constant: whether it adds the same to every token, as a control vector does.
    """

    version: int
    n_questions: int
    n_quick: int = 0
    takes_contrast: bool = False
    needs_torch: bool = False
    scales: bool = False
    is_constant: bool = False

    @property
    def takes_teacher(self) -> bool:
        """Whether a teacher can be its source."""
        return self.n_questions > 0

    @property
    def steers_front(self) -> bool:
        """Whether it steers the front of the prompt, by one pair of texts, and nothing else."""
        return not self.takes_teacher


METHODS: dict[MethodName, Method] = {
    "auto": Method(0, 240, 32),
    "psr": Method(4, 200, 32, needs_torch=True),
    "const": Method(4, 200, 32, needs_torch=True, is_constant=True),
    "chain": Method(6, 240, 48),
    "mean": Method(2, 32, takes_contrast=True, scales=True, is_constant=True),
    "pca": Method(2, 32, takes_contrast=True, scales=True, is_constant=True),
    "actadd": Method(2, 0, takes_contrast=True, scales=True),
}


def names_of(is_wanted: Callable[[Method], bool]) -> tuple[MethodName, ...]:
    """Return the names of the methods that are wanted."""
    return tuple(name for name, method in METHODS.items() if is_wanted(method))


def listed(names: tuple[str, ...], last: str = "or") -> str:
    """Return names as a sentence lists them: `mean, pca or actadd`."""
    *others, final = names
    return f"{', '.join(others)} {last} {final}" if others else final


TEACHER_ONLY = names_of(lambda method: not method.takes_contrast)
CONTRAST_ONLY = names_of(lambda method: not method.takes_teacher)
EITHER = names_of(lambda method: method.takes_teacher and method.takes_contrast)
SCALED = names_of(lambda method: method.scales)
CONSTANT = names_of(lambda method: method.is_constant)
