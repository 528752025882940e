"""How the demo's model is made: drawings with captions, the network in torch, the training script."""
