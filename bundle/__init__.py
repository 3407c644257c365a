"""The artifact contract between export and service: an immutable, verified folder of graphs. Imports no torch."""
