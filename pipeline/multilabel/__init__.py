"""Videos with several classes each: how they are written, what is trained on them, and how rankings are scored."""
