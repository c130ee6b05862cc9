"""Recipes are complete and can be altered within bounds."""

import pytest

from hffnet.runtime.errors import ConfigError
from hffnet.train.optimise import learning_rate
from hffnet.train.recipes import RECIPES, Recipe, altered, recipe_by_name


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name: str) -> None:
    recipe = recipe_by_name(name, (2, 6))
    assert recipe.name == name
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_the_papers_numbers() -> None:
    paper = recipe_by_name("paper", (2, 6))
    assert (paper.optimizer, paper.lr, paper.momentum, paper.weight_decay) == ("sgd", 1e-4, 0.937, 5e-4)
    assert (paper.batch_size, paper.epochs, paper.freeze) == (16, 200, "none")
    assert (paper.model.dim, paper.model.depth, paper.model.heads, paper.model.mlp_dim) == (768, 12, 12, 3072)


def test_the_rate_rises_then_falls_to_nothing() -> None:
    recipe = recipe_by_name("nano", (2, 6))
    assert 0 < learning_rate(recipe, 0.0) < learning_rate(recipe, recipe.warmup_epochs) == recipe.lr
    assert learning_rate(recipe, recipe.epochs) == pytest.approx(0.0, abs=1e-12)


def test_unknown_recipe() -> None:
    with pytest.raises(ConfigError, match="no recipe 'huge'; expected one of nano, small, paper"):
        recipe_by_name("huge", (2, 6))


@pytest.mark.parametrize("freeze", ["half", "stages:5", "stages:0"])
def test_a_freeze_that_is_none(freeze: str) -> None:
    with pytest.raises(ConfigError, match=f"freeze is '{freeze}'"):
        altered(recipe_by_name("nano", (2, 6)), freeze=freeze)
