"""Values of a config that are drawn for every trial.

A YAML file says so with a tag: ``lr: !loguniform [1e-5, 1e-3]``. It is read before Ray is imported,
so what a tag says is kept as a `Sampler` and becomes a distribution of Ray Tune when trials start.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from rllib_seqmarl.errors import UserError

if TYPE_CHECKING:
    from ray.tune.search.sample import Domain

#: Tag -> what its list must hold.
TAGS: dict[str, str] = {
    "uniform": "[lower, upper] with lower < upper",
    "loguniform": "[lower, upper] with 0 < lower < upper",
    "randint": "[lower, upper] with whole numbers lower < upper, of which upper is never drawn",
    "choice": "a list of values",
}
#: How far between the ends of a range its third candidate lies; of no range a round number.
_BETWEEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True)
class Sampler:
    """A distribution of Ray Tune, by name.

    Attributes:
        tag: a key of `TAGS`.
        arguments: what stands behind the tag.
    """

    tag: str
    arguments: Any

    def __repr__(self) -> str:
        return f"!{self.tag} {self.arguments}"

    def check(self, where: str) -> None:
        """Makes sure that Ray Tune can draw from it.

        Raises:
            UserError: wrong arguments; the line begins with ``where``.
        """
        fits = isinstance(self.arguments, list) and bool(self.arguments)
        if fits and self.tag != "choice":
            fits = len(self.arguments) == 2 and all(map(is_number, self.arguments))
            fits = fits and self.arguments[0] < self.arguments[1]
            if self.tag == "loguniform":
                fits = fits and self.arguments[0] > 0
            if self.tag == "randint":
                fits = fits and all(float(number).is_integer() for number in self.arguments)
        if not fits:
            raise UserError(f"{where}: !{self.tag} takes {TAGS[self.tag]}, got {self.arguments!r}.")

    def domain(self) -> Domain:
        """The distribution itself (imports Ray)."""
        from ray import tune

        if self.tag == "choice":
            return tune.choice(self.arguments)
        if self.tag == "randint":
            return tune.randint(*map(int, self.arguments))
        return getattr(tune, self.tag)(*self.arguments)


def is_sampler(value: object) -> bool:
    """Whether a value is a `Sampler` or, in a Python file, a distribution of Ray Tune."""
    # Whoever uses one of Ray Tune's has imported it; a YAML file need not wait for Ray here.
    samplers = sys.modules.get("ray.tune.search.sample")
    return isinstance(value, Sampler) or (
        samplers is not None and isinstance(value, samplers.Domain)
    )


def candidates(value: Any) -> list[Any]:
    """Values that stand for all that can be drawn: the choices, or both ends and one between.

    Of a distribution of Ray Tune that has no ends, it is one draw.
    """
    if isinstance(value, Sampler):
        if value.tag == "choice":
            return list(value.arguments)
        lower, upper = value.arguments
        if value.tag == "randint":
            return sorted({int(lower), int(upper) - 1})
    elif hasattr(value, "categories"):
        return list(value.categories)
    else:
        lower, upper = getattr(value, "lower", -math.inf), getattr(value, "upper", math.inf)
        if not (math.isfinite(lower) and math.isfinite(upper)):
            return [value.sample()]
        if isinstance(lower, int) and isinstance(upper, int):
            return sorted({lower, upper - 1})
    return [lower, upper, lower + _BETWEEN * (upper - lower)]


def check_values(value: object, where: str, *, alone: bool = True) -> None:
    """Checks every sampler in a config, and that nothing in it would be run as code.

    Args:
        value: a config, or a part of it.
        where: the place, for error messages.
        alone: whether a sampler may stand here.

    Raises:
        UserError: wrong arguments, a sampler within a list, or Ray Tune's ``eval``.
    """
    if is_sampler(value):
        if not alone:
            raise UserError(
                f"{where}: {value} stands within a list; a sampler is the whole value of a key."
            )
        if isinstance(value, Sampler):
            value.check(where)
            if value.tag == "choice":
                check_values(value.arguments, where)
    elif isinstance(value, Mapping):
        if set(value) == {"eval"}:
            raise UserError(
                f"{where}: Ray Tune would run {value['eval']!r} as Python code; draw values with "
                f"{', '.join(f'!{tag}' for tag in TAGS)}, or write a Python file."
            )
        for key, inner in value.items():
            check_values(inner, f"{where}: {key}")
    elif isinstance(value, list | tuple):
        for inner in value:
            check_values(inner, where, alone=False)


def with_domains(value: object) -> Any:
    """A config in which distributions of Ray Tune stand for the samplers."""
    if isinstance(value, Sampler):
        return value.domain()
    if isinstance(value, Mapping):
        return {key: with_domains(inner) for key, inner in value.items()}
    return value


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max
