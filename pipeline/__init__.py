"""When the stages run: Prefect flows, their schedule, and what is done when something happens."""

import os
from pathlib import Path

from pipeline import server

ROOT = Path(__file__).resolve().parents[1]

# Read by Prefect when it is imported, which is after this. Its state stays in the project. A flow
# that is alive says so every 30 seconds: that is how a dead one is told.
HOME = ROOT / ".latentworks/prefect"
if os.environ.setdefault("PREFECT_HOME", str(HOME)) == str(HOME):
    HOME.mkdir(parents=True, exist_ok=True)  # Prefect itself makes no folders above it
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")
server.authenticate()
