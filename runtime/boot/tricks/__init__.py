"""One trick a file; `runtime.boot.table` names them in order."""
