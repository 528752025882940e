"""What a user writes: the manifest, read and checked with the place of every mistake."""
