"""From a model's folder to a loaded model that an engine can run, with the memory that it needs."""
