"""Is everything here that a run needs? The parts of ``slr-det doctor``."""
