"""The test suite. A package, since others install a top-level 'tests' that would shadow a plain
folder."""
