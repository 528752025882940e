"""A stand-in for the webui: a tiny text-to-image diffusion model behind the same HTTP API."""
