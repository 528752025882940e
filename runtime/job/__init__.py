"""One job: its fields, its request, its LoRAs, its answer."""
