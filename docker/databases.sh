#!/bin/sh
# Creates a role and a database for MLflow and for Prefect; neither can enter the other's.
# PostgreSQL's image runs this file once, when its volume is empty. The file must be executable, so
# that the image runs it in a process of its own instead of sourcing it.
set -eu
for name in MLFLOW PREFECT; do
	role=$(echo "$name" | tr '[:upper:]' '[:lower:]')
	password=$(printenv "${name}_DATABASE_PASSWORD")
	psql --quiet --set ON_ERROR_STOP=1 --username postgres --dbname postgres \
		--set role="$role" --set password="$password" <<-'SQL'
		CREATE ROLE :"role" LOGIN PASSWORD :'password';
		CREATE DATABASE :"role" OWNER :"role";
		REVOKE CONNECT ON DATABASE :"role" FROM PUBLIC;
	SQL
done
