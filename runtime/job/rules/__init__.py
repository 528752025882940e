"""What webui 1.9.3 makes of requests, and where it would draw something else than asked: pure, no I/O."""
