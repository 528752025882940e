"""From a base image and weights to a final image: build, warm up, assemble, push, verify."""
