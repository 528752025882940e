"""What runs inside the webui's interpreter: `<webui python> -m runtime.boot SCRIPT ARGS…`.

SCRIPT runs as `__main__`, as upstream wrote it; the tricks of `runtime.boot.choice` make its start
shorter. Only the standard library is imported, and of it as little as possible, because every
import here delays the webui. docs/boot.md says what each trick does, gains and changes.
"""
