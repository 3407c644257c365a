"""The handlers. Each says what happens and leaves the how to the modules above."""
