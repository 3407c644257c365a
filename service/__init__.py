"""`python -m service`: a bundle behind REST. Imports no torch."""
