#!/bin/sh
# A role and a database for each of the two servers; neither may enter the other's. PostgreSQL's
# image runs this once, where its volume is empty; as a program, or it would be part of theirs.
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
