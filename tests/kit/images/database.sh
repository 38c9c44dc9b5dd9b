#!/bin/sh
# A stand-in for the entry point of postgres:17, with what docker/compose.yaml tells it: Debian's PostgreSQL, as any user.
set -eu
programs=$(ls -d /usr/lib/postgresql/*/bin)
PATH=$programs:$PATH
export LD_PRELOAD="$(ls /usr/lib/*/libnss_wrapper.so)" NSS_WRAPPER_PASSWD=/tmp/passwd NSS_WRAPPER_GROUP=/tmp/group
echo "postgres:x:$(id -u):$(id -g):::/bin/false" > /tmp/passwd
echo "postgres:x:$(id -g):" > /tmp/group
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb --pgdata="$PGDATA" --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth=scram-sha-256 --encoding=UTF8 --locale=C
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql
