"""Prefect flows that run the stages, their schedule, and automations on their events."""

import os
from pathlib import Path

from latentworks.tracking.uri import reach_directly
from pipeline import server

ROOT = Path(__file__).resolve().parents[1]

# Prefect reads these settings at its import, which comes later. Its state stays in the project. A
# running flow sends a heartbeat every 30 seconds; a flow without heartbeats counts as dead.
HOME = ROOT / ".latentworks/prefect"
if os.environ.setdefault("PREFECT_HOME", str(HOME)) == str(HOME):
    HOME.mkdir(parents=True, exist_ok=True)  # Prefect does not create parent folders
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")
server.authenticate()
reach_directly()
