"""Creates MLflow's users: `worker` can write, `serve` can only read.

compose.yaml runs this file as MLflow's admin at each `up`, so a password that was changed in
docker/.env then counts.
"""

import os
import sys

from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client

WORKSPACE = "default"
ROLE = "writer"
WRITER = {  # kinds of things, which of them, and the right: all but users and roles
    ("workspace", "*", "USE"),
    ("experiment", "*", "MANAGE"),
    ("registered_model", "*", "MANAGE"),
}


def main() -> None:
    client = get_app_client("basic-auth", tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    for name in ("worker", "serve"):
        password = os.environ[f"MLFLOW_{name.upper()}_PASSWORD"]
        try:
            client.create_user(name, password)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            client.update_user_password(name, password)
    roles = {role.name: role for role in client.list_roles(WORKSPACE)}
    role = roles.get(ROLE) or client.create_role(WORKSPACE, ROLE)
    granted = {
        (each.resource_type, each.resource_pattern, each.permission)
        for each in client.list_role_permissions(role.id)
    }
    for grant in WRITER - granted:
        client.add_role_permission(role.id, *grant)
    if role.id not in [each.id for each in client.list_user_roles("worker")]:
        client.assign_role("worker", role.id)


if __name__ == "__main__":
    try:
        main()
    except MlflowException as error:
        sys.exit(
            f"Cannot create MLflow's users: {error} If MLflow refused the login, set "
            "MLFLOW_ADMIN_PASSWORD in docker/.env to the password of MLflow's admin."
        )
