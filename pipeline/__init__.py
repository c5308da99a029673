"""When the stages run: Prefect flows."""
