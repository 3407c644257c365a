"""What is trained when little is said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from training.errors import TrainingError
from training.packed import PackInfo
from training.recipes import RECIPES, NetworkFlags, RecipeName, choose_recipe, recipe_for

INFO = PackInfo(
    name="photos", size=(64, 64), channels=3, num_images=9, num_corrupt=0, shards={}, classes=None,
    mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), source="photos",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sides"),
    [("px32", (1, 32, 63)), ("px64", (64, 95)), ("px96", (96, 223)), ("px224", (224, 4000))],
)
def test_the_largest_recipe_that_the_images_fill(name: RecipeName, sides: tuple[int, ...]) -> None:
    assert all(choose_recipe(side) == RECIPES[name] for side in sides)


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_is_a_network_that_can_be(name: RecipeName) -> None:
    recipe = RECIPES[name]
    network = recipe.network(replace(INFO, channels=1, mean=(0.5,), std=(0.2,)))
    assert network.image_size == recipe.image_size
    assert network.channels == 1
    assert all(pack >= image for pack, image in zip(recipe.pack_size, recipe.image_size, strict=True))
    assert recipe.warmup_epochs < recipe.epochs


def test_the_network_normalises_with_its_datas_statistics() -> None:
    network = RECIPES["px64"].network(INFO, target="raw")
    assert (network.mean, network.std, network.target) == (INFO.mean, INFO.std, "raw")


def test_flags_and_overrides_win_and_none_is_not_set() -> None:
    flags = NetworkFlags(preset="small", depth=3, image_size=32, decoder_dim=64)
    recipe = recipe_for(flags, INFO, epochs=7, blr=None)
    expected = replace(RECIPES["px64"], preset="small", depth=3, image_size=(32, 32), decoder_dim=64, epochs=7)
    assert recipe == expected
    assert recipe.network(INFO).depth == 3


def test_the_packs_size_is_what_it_is() -> None:
    assert recipe_for(NetworkFlags(recipe="px64"), replace(INFO, size=(72, 80))).pack_size == (72, 80)


@pytest.mark.parametrize(
    ("flags", "size"),
    [(NetworkFlags(image_size=96), (64, 64)), (NetworkFlags(), (16, 64)), (NetworkFlags(recipe="px96"), (64, 64))],
)
def test_images_smaller_than_the_network_are_refused(flags: NetworkFlags, size: tuple[int, int]) -> None:
    with pytest.raises(TrainingError, match=r"smaller than the network's .* choose a smaller --image-size, or pack it"):
        recipe_for(flags, replace(INFO, size=size))
