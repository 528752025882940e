"""What is built before an image is put together: base, wheel, thin layers, warm-up."""
