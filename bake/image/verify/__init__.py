"""Whether an image is what it says: its files, its secrets, its worker."""
