"""The wire between the API process and the engine process."""

import os

# gRPC's core logs past Python's logging, a line at every orderly end; it reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
