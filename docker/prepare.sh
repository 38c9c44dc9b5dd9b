#!/bin/sh
# What docker/compose.yaml needs before its first start: passwords in docker/secrets, folders in docker/store, and docker/.env.
# What is there already stays. Run it as the user whose checkout this is: containers run under its number, never as root.
set -eu
umask 077
here=$(cd "$(dirname "$0")" && pwd)
secrets=$here/secrets
store=$here/store
mkdir -p "$secrets"

word() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; } # 32 hexadecimal digits: valid in an address, in JSON and in INI
keep() { [ -s "$secrets/$1" ] || cat > "$secrets/$1"; }

word | keep password       # user `everest` of both servers
word | keep database       # user `everest` of PostgreSQL
word | keep s3_access_key
word | keep s3_secret_key
password=$(cat "$secrets/password")
access=$(cat "$secrets/s3_access_key")
secret=$(cat "$secrets/s3_secret_key")
# The same, as each program reads them.
printf 'everest:%s' "$password" > "$secrets/prefect_login"
printf 'postgresql://everest:%s@database:5432' "$(cat "$secrets/database")" > "$secrets/database_address"
printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$access" "$secret" > "$secrets/s3_credentials"
printf '{"identities": [{"name": "everest", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "actions": ["Admin", "Read", "List", "Tagging", "Write"]}]}' \
  "$access" "$secret" > "$secrets/s3_identities.json"

# What the servers keep is for nobody else's eyes.
for part in database socket objects mlflow prefect; do mkdir -p "$store/$part"; done
# What the worker keeps of Prefect's; results of runs are in the checkout.
mkdir -p "$store/worker"
# Lies over secrets and store in the worker, which has the checkout: what a flow runs needs neither.
mkdir -p "$store/empty"

if [ ! -e "$here/.env" ]; then
  profile=cpu
  ! command -v nvidia-smi > /dev/null || profile=gpu
  printf 'EVEREST_UID=%s\nEVEREST_GID=%s\nCOMPOSE_PROFILES=%s\n' "$(id -u)" "$(id -g)" "$profile" > "$here/.env"
fi
if [ "$(id -u)" = 0 ] && grep -qx 'EVEREST_UID=0' "$here/.env"; then
  echo "This is root, and containers would run as root. Cure: another user, or EVEREST_UID and EVEREST_GID in $here/.env and" >&2
  echo "  chown -R UID:GID $secrets $store" >&2
  exit 2
fi
echo "ready: docker compose -f docker/compose.yaml up --detach --build"
