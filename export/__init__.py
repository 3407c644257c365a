"""From training runs to a bundle: python -m export RUN [--classifier RUN2] --out BUNDLE."""
