"""An image as a RunPod serverless endpoint: REST v2 only (docs/deploy.md)."""
