"""The download engine: one file over several connections, resumed at its byte, hashed while it comes."""
