"""Options that a class declares as fields of its dataclass, and configurations that gather them for the command line.

`TopK.rho` is declared as the option `top_k`. A configuration with the options of `TopK` then has a field `top_k` of the
same default, whose flag is --top-k, and `configured(TopK, config)` is a `TopK` with the configuration's value.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import Field, dataclass, field
from typing import Annotated, Any, TypeVar

from typing_extensions import Doc

from agents.checks import positive

Made = TypeVar("Made")


def option(name: str, default: Any, doc: str, check: Callable[[object, Iterable[str]], None] | None = positive) -> Any:
    """Declare a field of a dataclass as the option `name`; `doc` is its help, `check` refuses values off its range."""
    return field(default=default, metadata={"option": name, "doc": doc, "check": check})


def declared(element: type) -> list[Field]:
    """Return the fields of a class that are options; none if it is not a dataclass."""
    return [each for each in getattr(element, "__dataclass_fields__", {}).values() if "option" in each.metadata]


def option_names(element: type, among: Collection[str] | None = None) -> set[str]:
    """Return the names of a class's options, or of those whose fields are `among` some."""
    return {each.metadata["option"] for each in declared(element) if among is None or each.name in among}


def configured(element: type[Made], config: object) -> Made:
    """Make an `element` whose options have the values that `config` holds."""
    return element(**{each.name: getattr(config, each.metadata["option"]) for each in declared(element)})


def with_options(*elements: type) -> Callable[[type], type]:
    """Make a configuration a frozen dataclass of its own fields and, after them, one for each option of `elements`."""

    def decorate(config: type) -> type:
        for each in (each for element in elements for each in declared(element)):
            name = each.metadata["option"]
            config.__annotations__[name] = Annotated[each.type, Doc(each.metadata["doc"])]
            setattr(config, name, field(default=each.default, metadata=each.metadata))
        return dataclass(frozen=True)(config)

    return decorate


def check_options(config: object) -> None:
    """Raise ValueError if an option of a configuration is out of its range."""
    for each in declared(type(config)):
        if check := each.metadata["check"]:
            check(config, (each.name,))
