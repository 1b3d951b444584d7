"""TuSimple lane detection: its files, its frames, and what training needs of them."""
