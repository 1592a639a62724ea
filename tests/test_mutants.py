"""The list of mutants follows the code; `make mutants` tries them."""

import ast

import pytest

from runtime.errors import InvalidInputError
from tests.mutants import ROOT, Mutant, mutate, read_mutants

MUTANTS = read_mutants()


def test_there_are_enough_and_each_is_another() -> None:
    assert len(MUTANTS) >= 40 and len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert {mutant.file.partition("/")[0] for mutant in MUTANTS} == {"training", "runtime", "export", "tools"}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.file}-{mutant.old[:30]}")
def test_a_mutant_is_of_the_code_as_it_is(mutant: Mutant) -> None:
    changed = mutate((ROOT / mutant.file).read_text(encoding="utf-8"), mutant)
    if mutant.file.endswith(".py"):
        ast.parse(changed)
    for test in mutant.tests:
        file, _, name = test.partition("::")
        source = (ROOT / file).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in source, test


def test_what_is_not_there_once_is_refused() -> None:
    for text in ("", "x = 1; x = 1"):
        with pytest.raises(InvalidInputError, match="follow the code"):
            mutate(text, Mutant(file="f", old="x = 1", new="x = 2", tests=()))
