"""What `bake` and a worker share: fetching weights over HTTP, and checking them."""
