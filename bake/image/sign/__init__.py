"""Who made an image, and what they say of it: Sigstore bundles beside it in the registry, as cosign writes them."""
