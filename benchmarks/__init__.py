"""One script per question; the answers are in results/."""
