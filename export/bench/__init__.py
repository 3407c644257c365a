"""How fast, how large and how true every engine is that runs a bundle here: python -m export.bench BUNDLE."""
