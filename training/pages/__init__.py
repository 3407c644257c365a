"""Self-contained pages: what the reports, comparisons and sweeps have in common."""
