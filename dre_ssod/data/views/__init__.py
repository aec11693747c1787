"""Views: what an image goes through before a detector sees it, and the matrix that boxes follow.

``views`` has the recipes and draws from them, ``photometric`` changes colors, ``geometric`` moves
pixels; ``pixels``, ``stac`` and ``instant_teaching`` are strong views of single methods. All work
on (H, W, 3) uint8 arrays, and all randomness comes from the generator that is passed in: a view is
a function of the image, the recipe and the generator's state.

This room knows neither files nor annotations.
"""
