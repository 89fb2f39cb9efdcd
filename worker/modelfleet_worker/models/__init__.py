"""Model code: from a Hugging Face folder to a module that knows flat tokens, never requests."""
