"""One trick a file; `runtime.boot.choice` names them in order."""
